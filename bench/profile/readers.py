"""READERS: what each engine's profiler writes, as the operators of every profiled run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measurement import BenchError
from exporters.toolkits import quiet


@dataclass(frozen=True)
class Call:
    """One operator in one run: its name, its time in ns, and the shape of the weight that it was given, where the
    profiler tells. `weighted` says whether it is one that has a weight: a convolution or a matrix product."""

    name: str
    ns: float
    weighted: bool
    shape: tuple[int, ...] = ()


Run = tuple[Call, ...]
ONNX_WEIGHTED = ("Conv", "Gemm", "MatMul")
TORCH_WEIGHTED = ("conv", "linear", "addmm", "matmul", "mm")
WHOLE = ("Method::execute", "DELEGATE_CALL", "Method::init", "Program::load_method")


def read(form: str, path: Path) -> tuple[Run, ...]:
    """Every run of the profile at `path`, which the runner for `form` wrote. BenchError if it is none, or is empty."""
    try:
        runs = tuple(run for run in READERS[form](path) if run)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise BenchError(
            f"{path.name} is no profile of a .{form} ({type(error).__name__}: {error}); profile it again"
        ) from error
    if not runs:
        raise BenchError(f"the profile of the .{form} names no operator; build the runner anew with `make runner`")
    return runs


def _onnx(path: Path) -> Iterable[Run]:
    """ONNX Runtime's events, one for each kernel; a run ends with the session's event of that name."""
    run: list[Call] = []
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            run.append(_kernel(event))
        elif event["name"] == "model_run":
            yield tuple(run)
            run = []


def _kernel(event: Mapping[str, Any]) -> Call:
    name = re.sub(r"(_nchwc|_token_\d+)+$", "", event["name"].removesuffix("_kernel_time")).removeprefix("fused ")
    kind = str(event["args"]["op_name"])
    return Call(f"{kind} {name}", 1e3 * event["dur"], kind.endswith(ONNX_WEIGHTED))


def _executorch(path: Path) -> Iterable[Run]:
    """ETDump's events: XNNPACK's own for what it was given, ExecuTorch's for operators outside it."""
    with quiet():
        from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc

        dump = deserialize_from_etdump_flatcc(path.read_bytes())
    for block in dump.run_data:
        events = [each.profile_event for each in block.events or () if each.profile_event is not None]
        yield tuple(call for event in events if (call := _event(event)) is not None and block.name == "Execute")


def _event(event: Any) -> Call | None:
    name = str(event.delegate_debug_id_str or event.name or "")
    if name in WHOLE or not name or name == "OPERATOR_CALL":
        return None
    weighted = "Convolution" in name or "Fully Connected" in name or "Deconvolution" in name
    return Call(name, float(event.end_time - event.start_time), weighted)


def _torch(path: Path) -> Iterable[Run]:
    """The runner's own record of what the lite interpreter calls."""
    for run in json.loads(path.read_text(encoding="utf-8"))["runs"]:
        yield tuple(_called(call) for call in run)


def _called(call: Mapping[str, Any]) -> Call:
    name = str(call["name"]).removeprefix("aten::").strip("_")
    shapes = [tuple(map(int, shape)) for shape in call["shapes"]]
    matrices = [shape for shape in shapes[1:] if len(shape) > 1]
    weighted = any(word in name for word in TORCH_WEIGHTED) and bool(matrices)
    return Call(name, float(call["ns"]), weighted, matrices[-1] if weighted else ())


READERS: dict[str, Callable[[Path], Iterable[Run]]] = {"pte": _executorch, "onnx": _onnx, "ptl": _torch}
