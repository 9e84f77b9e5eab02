"""`python -m bench.runner.build`: unpacks the engines' wheels, builds the four programs, writes the bundles."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from bench.measurement import BenchError
from bench.runner.bundle import LOADER, ROOT, Bundle, BundledFile, Program, closure, open_bundle, write_manifest
from exporters.artifact import size_and_sha256

HERE = Path(__file__).parent
ENGINES = ("pte", "onnx", "tflite", "ptl")


@dataclass(frozen=True)
class Engine:
    """One engine's package and version; `sha256` is the wheel's, "" where the package is installed already."""

    name: str
    package: str
    version: str
    sha256: str = ""

    @property
    def program(self) -> str:
        return f"run_{self.name}"


@dataclass(frozen=True)
class Lane:
    """The engines of one lane. `python` and `platform` say which wheels are taken; "" is this environment's own."""

    engines: tuple[Engine, ...]
    python: str = ""
    platform: str = ""


def lane(name: str) -> Lane:
    """The row called `name` of versions.toml: "host" or "arm"."""
    row = tomllib.loads((HERE / "versions.toml").read_text(encoding="utf-8"))[name]
    engines = tuple(Engine(engine, **row[engine]) for engine in ENGINES)
    return Lane(engines, row.get("python", ""), row.get("platform", ""))


class Log:
    """Runs steps and says how long each took; their words go to a file, whose last lines are shown if one fails."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def do(self, command: Sequence[str], what: str) -> None:
        """Runs a command, which does `what`. BenchError if it fails."""
        print(f"{what} ...", flush=True)
        begin = time.monotonic()
        with self._path.open("ab") as words:
            done = subprocess.run(command, stdout=words, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            last = "\n".join(self._path.read_text(errors="replace").splitlines()[-20:])
            raise BenchError(
                f"{what} failed with exit status {done.returncode}; the last lines of {self._path}:\n{last}"
            )
        print(f"  {time.monotonic() - begin:.0f} s", flush=True)


BIN = Path(sys.executable).parent
SITE = Path(sysconfig.get_path("purelib"))
CROSS = Path("/usr/aarch64-linux-gnu/lib")
LOG = "build.log"
PACKAGES = {"g++": "g++", "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "readelf": "binutils"}


@dataclass(frozen=True)
class Target:
    """One architecture to build for: its lane, its compiler, and whether the bundle brings its own C library."""

    arch: str
    lane: str
    abi: str
    compiler: str
    standard: int
    torch_abi: int
    carries_libc: bool


TARGETS = {
    # torch 2.1.0's ARM wheel was built with the C++ library's old ABI, and its headers are C++17.
    "aarch64": Target("aarch64", "arm", "arm64-v8a", "aarch64-linux-gnu-g++", 17, 0, True),
    "host": Target("host", "host", os.uname().machine, "g++", 20, 1, False),
}


def build(target: Target, root: Path = ROOT) -> Path:
    """The bundle directory of the target, built where its sources, versions and compiler are not those of last time, or
    where a file of it is missing or has changed.

    BenchError names the package if a program is missing, and the log if a step fails.
    """
    for program in (target.compiler, "readelf"):
        if shutil.which(program) is None:
            raise BenchError(
                f"the runner is built with {program}, and it is missing: apt-get install {PACKAGES[program]}"
            )
    chosen = lane(target.lane)
    key = _key(target, chosen)
    stamp = root / f".{target.arch}.json"
    if stamp.exists() and stamp.read_text() == key:
        with suppress(BenchError):  # libraries of an environment that is gone, say: built again
            return open_bundle(target.arch, root).path
    wheels = _wheels(target, chosen, root)
    programs = _compile(target, chosen, wheels, root)
    bundle = _assemble(target, chosen, wheels, programs, root)
    stamp.write_text(key)
    return bundle


def _key(target: Target, chosen: Lane) -> str:
    """All that decides the bundle's bytes, as text."""
    sources = {
        path.name: size_and_sha256(path)[1]
        for path in sorted(HERE.iterdir())
        if path.suffix in (".cpp", ".h", ".txt", ".cmake")
    }
    compiler = subprocess.run([target.compiler, "--version"], capture_output=True, text=True, check=True).stdout
    return json.dumps([asdict(target), asdict(chosen), sources, compiler], sort_keys=True)


def _wheels(target: Target, chosen: Lane, root: Path) -> Path:
    """The folder in which the lane's packages lie unpacked: this environment's own, or one filled from the registry."""
    if not chosen.platform:
        for engine in chosen.engines:
            if version(engine.package) != engine.version:
                raise BenchError(
                    f"the host lane of versions.toml says {engine.package} {engine.version}, and "
                    f"{version(engine.package)} is installed; make the two agree"
                )
        return SITE
    wanted = "".join(f"{engine.package}=={engine.version} --hash=sha256:{engine.sha256}\n" for engine in chosen.engines)
    folder = root / "wheels" / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    requirements = folder.with_suffix(".txt")
    requirements.write_text(wanted)
    words = ["pip", "install", "-q", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(requirements)]
    place = ["--target", str(partial), "--python-platform", chosen.platform, "--python-version", chosen.python]
    Log(root / LOG).do([str(BIN / "uv"), *words, *place], f"downloading the wheels of {target.arch}")
    partial.rename(folder)
    return folder


def _compile(target: Target, chosen: Lane, wheels: Path, root: Path) -> list[Path]:
    """The four programs, compiled."""
    work = root / "work" / target.arch
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    engines = {engine.name: engine for engine in chosen.engines}
    (library,) = (wheels / "onnxruntime" / "capi").glob("libonnxruntime.so.*")
    settings = {
        "CMAKE_MAKE_PROGRAM": BIN / "ninja",
        "CMAKE_CXX_COMPILER": target.compiler,
        "CMAKE_CXX_STANDARD": target.standard,
        "WHEELS": wheels,
        "ONNXRUNTIME_LIBRARY": library,
        "EXECUTORCH_VERSION": engines["pte"].version,
        "LITERT_VERSION": engines["tflite"].version,
        "TORCH_VERSION": engines["ptl"].version,
        "TORCH_ABI": target.torch_abi,
    }
    cross = {"CMAKE_TOOLCHAIN_FILE": HERE / "aarch64.cmake"} if target.carries_libc else {}
    words = [f"-D{name}={value}" for name, value in {**settings, **cross}.items()]
    cmake = str(BIN / "cmake")
    log = Log(root / LOG)
    log.do([cmake, "-S", str(HERE), "-B", str(work), "-G", "Ninja", *words], f"configuring for {target.arch}")
    log.do([cmake, "--build", str(work)], f"compiling for {target.arch}")
    return [work / engine.program for engine in chosen.engines]


def _assemble(target: Target, chosen: Lane, wheels: Path, programs: Sequence[Path], root: Path) -> Path:
    """Programs and libraries in one directory, its manifest written last."""
    partial = root / f".{target.arch}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "lib").mkdir(parents=True)
    folders = [wheels / "executorch/lib", wheels / "onnxruntime/capi", wheels / "ai_edge_litert"]
    folders += [wheels / "torch/lib", wheels / "torch.libs"]
    folders += sorted((wheels / "nvidia").glob("*/lib")) if not target.carries_libc else [CROSS]
    for program in programs:
        shutil.copy(program, partial / program.name)
    for name, library in closure(programs, folders).items():
        if target.carries_libc:
            shutil.copy(library, partial / "lib" / name)
            (partial / "lib" / name).chmod(0o755)
        else:
            # Half a gigabyte that lies in this environment anyway.
            (partial / "lib" / name).symlink_to(library)
    paths = [path for path in sorted(partial.rglob("*")) if path.is_file()]
    files = {str(path.relative_to(partial)): BundledFile(*size_and_sha256(path)) for path in paths}
    engines = {engine.name: Program(engine.program, engine.package, engine.version) for engine in chosen.engines}
    content = (partial / "lib" / "libc.so.6").read_bytes() if LOADER in files else b""
    found = re.search(rb"GNU C Library [^\n]*version (\d+\.\d+)", content)
    glibc = found[1].decode() if found else ""
    write_manifest(Bundle(partial, target.arch, target.abi, glibc, dict(sorted(engines.items())), files))
    final = root / target.arch
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    return final


def main(names: Sequence[str]) -> int:
    """Builds the named targets, or all; exit status 1 with one message if that fails."""
    try:
        for name in names or TARGETS:
            if name not in TARGETS:
                raise BenchError(f"there is no target {name!r}; choose among {', '.join(TARGETS)}")
            path = build(TARGETS[name])
            print(f"{path}: {sum(1 for each in path.rglob('*') if each.is_file())} files")
    except BenchError as error:
        print(f"runner: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
