"""Profile: the cost of each operator of a file, as each engine's profiler tells it, its layer, and `profiles.jsonl`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import msgspec

from bench.budgets.growth import layers_of, plain_sides
from bench.budgets.model_files import ModelFile
from bench.file_contents.read_onnx import Node, nodes
from bench.measurement import BenchError, Device
from exporters.artifact import write_whole
from exporters.toolkits import quiet

Unit = Literal["ms", "instructions"]


@dataclass(frozen=True)
class Operator:
    """One operator of a file, in the order in which it runs: the engine's name for it, the layer that it belongs to (""
    where it is none's, as a pooling is, or where the engine does not tell), and what one run of it takes."""

    name: str
    layer: str
    amount: float


@dataclass(frozen=True)
class LayerTotal:
    """Total of all operators of one layer. An operator of no layer stands for itself."""

    layer: str
    operators: tuple[str, ...]
    amount: float


@dataclass(frozen=True)
class Profile:
    """Cost of a file's operators on one device: ms (the median over `runs` runs), or instructions of one run on the
    simulated processor. A profiled run is slower than an ordinary one: fractions mean more than sums.

    `joined` says whether the operators were brought together with the file's layers.
    """

    network: str
    format: str
    sha256: str
    device: Device
    runtime: str
    runtime_version: str
    unit: Unit
    runs: int
    operators: tuple[Operator, ...]
    joined: bool
    measured_at: str

    @property
    def total(self) -> float:
        return sum(operator.amount for operator in self.operators)

    def layers(self) -> tuple[LayerTotal, ...]:
        """Cost by layer, worst first."""
        found: dict[str, list[Operator]] = {}
        for operator in self.operators:
            found.setdefault(operator.layer or f"({operator.name})", []).append(operator)
        totals = [
            LayerTotal(name, tuple(operator.name for operator in own), sum(operator.amount for operator in own))
            for name, own in found.items()
        ]
        return tuple(sorted(totals, key=lambda total: -total.amount))


def append(path: Path, profiles: Iterable[Profile]) -> None:
    """Adds a line of JSON for each profile to the file at `path`, which may be new."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_whole(path, before + "".join(json.dumps(asdict(each)) + "\n" for each in profiles))


def read(path: Path) -> tuple[Profile, ...]:
    """The profiles of a `profiles.jsonl`, oldest first. BenchError names the line that cannot be read."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(msgspec.json.decode(line, type=Profile))
        except (ValueError, BenchError) as error:
            raise BenchError(
                f"{path}, line {number}, is not a profile: {type(error).__name__}: {error}; profile again, or take the "
                "line out"
            ) from error
    return tuple(found)


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
WHOLE = ("Method::execute", "DELEGATE_CALL", "Method::init", "Program::load_method", "OPERATOR_CALL")
"""ExecuTorch's events around those of operators."""


def read_calls(form: str, path: Path) -> tuple[Run, ...]:
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
            name = event["name"].removesuffix("_kernel_time")
            name = re.sub(r"(_nchwc|_token_\d+)+$", "", name).removeprefix("fused ")
            kind = str(event["args"]["op_name"])
            run.append(Call(f"{kind} {name}", 1e3 * event["dur"], kind.endswith(ONNX_WEIGHTED)))
        elif event["name"] == "model_run":
            yield tuple(run)
            run = []


def _executorch(path: Path) -> Iterable[Run]:
    """ETDump's events: XNNPACK's own for what it was given, ExecuTorch's for operators outside it."""
    with quiet():
        from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc

        dump = deserialize_from_etdump_flatcc(path.read_bytes())
    for block in dump.run_data:
        calls = []
        events = (each.profile_event for each in block.events or () if block.name == "Execute")
        for event in (event for event in events if event is not None):
            name = str(event.delegate_debug_id_str or event.name or "")
            if name and name not in WHOLE:
                weighted = "Convolution" in name or "Fully Connected" in name or "Deconvolution" in name
                calls.append(Call(name, float(event.end_time - event.start_time), weighted))
        yield tuple(calls)


def _torch(path: Path) -> Iterable[Run]:
    """The runner's own record of what the lite interpreter calls."""
    for run in json.loads(path.read_text(encoding="utf-8"))["runs"]:
        calls = []
        for call in run:
            name = str(call["name"]).removeprefix("aten::").strip("_")
            shapes = [tuple(map(int, shape)) for shape in call["shapes"]]
            matrices = [shape for shape in shapes[1:] if len(shape) > 1]
            weighted = any(word in name for word in TORCH_WEIGHTED) and bool(matrices)
            calls.append(Call(name, float(call["ns"]), weighted, matrices[-1] if weighted else ()))
        yield tuple(calls)


READERS: dict[str, Callable[[Path], Iterable[Run]]] = {"pte": _executorch, "onnx": _onnx, "ptl": _torch}
Layers = list[str]


def layers_of_calls(form: str, calls: Sequence[Call], subject: ModelFile) -> Layers | None:
    """The layer of each operator, "" for those that have no weight; None where they cannot be brought together."""
    return JOINS[form](calls, subject)


def _by_name(calls: Sequence[Call], subject: ModelFile) -> Layers | None:
    """ONNX Runtime names a kernel after a node, or after what a chain of fused nodes gives: the weight is
    found by going back from there."""
    contents = subject.contents
    assert contents is not None  # a .onnx has a reader
    owners = {weight.name: layer for weight, layer in zip(contents.weights, layers_of(subject), strict=True)}
    # a weight that is looked up in a codebook has that weight's name
    owners |= {name.removesuffix(".codebook"): layer for name, layer in owners.items()}
    graph = nodes(subject.path)
    found = {node.name: node for node in graph if node.name} | {name: node for node in graph for name in node.outputs}
    layers = [_layer(call.name.partition(" ")[2], found, owners) if call.weighted else "" for call in calls]
    own = [owner for node in graph if node.operator.endswith(ONNX_WEIGHTED) and (owner := _owner(node, found, owners))]
    # Nodes need not have names; then only their order is left.
    return layers if any(layers) else _in_order(calls, own)


def _in_order(calls: Sequence[Call], layers: Sequence[str]) -> Layers | None:
    """The layers given to the operators that have a weight, one after another; None where there are more of either."""
    if len(layers) != sum(call.weighted for call in calls):
        return None
    left = iter(layers)
    return [next(left) if call.weighted else "" for call in calls]


def _owner(node: Node, found: Mapping[str, Node], owners: Mapping[str, str]) -> str:
    """The layer whose weight the node takes, as it is stored or through the node that turns int8 into numbers; ""
    where it takes none. Scales are no weights."""
    if node.operator in ("QuantizeLinear", "DequantizeLinear"):
        return ""
    makers = {name: found.get(name) for name in node.inputs[1:]}
    stored = (
        maker.inputs[0] if maker is not None and maker.operator == "DequantizeLinear" else name
        for name, maker in makers.items()
    )
    return next((owners[name] for name in stored if name in owners), "")


def _layer(name: str, found: Mapping[str, Node], owners: Mapping[str, str]) -> str:
    node = found.get(name)
    while node is not None:
        owner = _owner(node, found, owners)
        if owner:
            return owner
        node = found.get(node.inputs[0]) if node.inputs else None
    return ""


def _by_place(calls: Sequence[Call], subject: ModelFile) -> Layers | None:
    """XNNPACK runs convolutions and fully connected layers in the order in which the file keeps their weights."""
    contents = subject.contents
    assert contents is not None  # a .pte has a reader
    owners = zip(contents.weights, layers_of(subject), strict=True)
    return _in_order(calls, [layer for weight, layer in owners if len(weight.shape) in (2, 4)])


def _by_shape(calls: Sequence[Call], subject: ModelFile) -> Layers | None:
    """The lite interpreter's calls tell the shapes of their weights, which the file keeps in the order of the calls."""
    contents = subject.contents
    assert contents is not None  # a .ptl has a reader
    owners = zip(contents.weights, layers_of(subject), strict=True)
    left = [(plain_sides(weight.shape), layer) for weight, layer in owners if len(weight.shape) > 1]
    layers = []
    for call in calls:
        if call.weighted and left and left[0][0] == plain_sides(call.shape):
            layers.append(left.pop(0)[1])
        else:
            layers.append("")
    return None if left else layers


JOINS: dict[str, Callable[[Sequence[Call], ModelFile], Layers | None]] = {
    "pte": _by_place,
    "onnx": _by_name,
    "ptl": _by_shape,
}
