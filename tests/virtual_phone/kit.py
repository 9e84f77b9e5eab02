"""Surroundings of the virtual phone: QEMU, an adb server of their own, a runner's bundle and files for it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from bench.runner.bundle import LOADER, Bundle, BundledFile, Program, write_manifest
from exporters.artifact import size_and_sha256

NOTICED_SECONDS = 60.0
CROSS = Path("/usr/aarch64-linux-gnu/lib")
SOURCE = Path(__file__).parent / "run_matmul.c"
PACKAGES = {
    "adb": "adb",
    "qemu-aarch64": "qemu-user",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
}


def find(program: str) -> str:
    """The path of a program. RuntimeError names the package that has it."""
    found = shutil.which(program)
    if found is None:
        raise RuntimeError(
            f"these tests need {program}, and there is none: apt-get install {PACKAGES[program]} (make test does)"
        )
    return found


def adb_environment(home: Path) -> dict[str, str]:
    """Variables for an adb server on a free port that looks at no cable and at no emulator, with keys of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"ANDROID_ADB_SERVER_PORT": str(port), "HOME": str(home), "ADB_USB": "0", "ADB_EMU": "0", "ADB_MDNS": "0"}


def adb(*words: str) -> str:
    """The output of the real client, or its complaint."""
    done = subprocess.run([find("adb"), *words], capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout + done.stderr).strip()


def disconnect(address: str) -> None:
    """Lets adb forget the phone at `address`. TimeoutError as `await_state` gives it.

    `adb disconnect` answers before a thread of the server has let go. Until then `adb connect` answers "already
    connected", of the connection that is about to vanish, and after that no phone is there.
    """
    adb("disconnect", address)
    await_state(address, "")


def await_state(address: str, *states: str) -> None:
    """Waits until adb lists the phone in one of the states; "" is not at all. TimeoutError after NOTICED_SECONDS."""
    deadline = time.monotonic() + NOTICED_SECONDS
    while True:
        found = re.search(rf"^{re.escape(address)}\t(.+)$", adb("devices"), re.MULTILINE)
        state = found[1] if found else ""
        if state in states:
            return
        if time.monotonic() > deadline:
            wanted = " or ".join(each or "gone" for each in states)
            raise TimeoutError(f"adb calls {address} {state!r} after {NOTICED_SECONDS:g} s, and it should be {wanted}")
        time.sleep(0.02)


def build_bundle(root: Path) -> Bundle:
    """A bundle under root/aarch64 whose one program runs MatMul files, made by Debian's cross compiler."""
    path = root / "aarch64"
    (path / "lib").mkdir(parents=True)
    subprocess.run([find("aarch64-linux-gnu-gcc"), "-O2", str(SOURCE), "-o", str(path / "run_onnx")], check=True)
    for name in (Path(LOADER).name, "libc.so.6"):
        shutil.copy(CROSS / name, path / "lib" / name)
    names = ("run_onnx", LOADER, "lib/libc.so.6")
    files = {name: BundledFile(*size_and_sha256(path / name)) for name in names}
    bundle = Bundle(path, "aarch64", "arm64-v8a", "2.36", {"onnx": Program("run_onnx", "matmul", "0.1")}, files)
    write_manifest(bundle)
    return bundle


def matmul_file(path: Path, shape: tuple[int, int, int], classes: int) -> Path:
    """A real .onnx file: the flattened image times a matrix."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    features = int(np.prod(shape))
    chance = np.random.default_rng(classes)
    weights = numpy_helper.from_array(chance.standard_normal((features, classes)).astype(np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["logits"])],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, *shape))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, classes))],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
