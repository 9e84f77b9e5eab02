"""`python -m bench.phone.app.build`: fetches Android libraries, compiles android_app/, packages the bundle."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.measurement import BenchError
from bench.phone.app.bundle import MANIFEST, ROOT, AppBundle, Build, open_app_bundle, write_app_bundle
from bench.phone.app.libraries import Library, libraries, unpack
from bench.phone.app.package import Tools, apk, dex, make_key
from bench.runner.build_log import Log
from bench.runner.bundle import weigh
from bench.runner.versions import HERE

SOURCES = Path(__file__).resolve().parents[3] / "android_app"
PACKAGES = {
    "javac": "default-jdk-headless",
    "mvn": "maven",
    "npm": "npm",
    "aapt2": "aapt",
    "zipalign": "zipalign",
    "apksigner": "apksigner",
}
"""The programs that a build runs, and the Debian package of each."""

APKS = {"bench": ("pte", "onnx"), "legacy": ("ptl",)}
"""The apps and their engines: the legacy one cannot ship on phones whose pages have 16 KB."""

JNI = ("fbjni-java-only.jar", "nativeloader.jar")
"""What the Java side of PyTorch's libraries calls."""

EXTRA = {"pte": JNI[1:], "onnx": (), "ptl": JNI}
MODULES = {"onnx": "engine-onnx", "ptl": "engine-torchscript", "pte": "engine-executorch"}


def build(root: Path = ROOT.parent) -> AppBundle:
    """The bundle in root/bundle, built where sources or versions are not those of last time.

    BenchError names the package if a program is missing, and the log if a step fails.
    """
    for program, package in PACKAGES.items():
        if shutil.which(program) is None:
            raise BenchError(f"the app is built with {program}, and it is missing: apt-get install {package}")
    root.mkdir(parents=True, exist_ok=True)
    key, stamp = _key(), root / ".built.json"
    if stamp.exists() and stamp.read_text() == key and (root / "bundle" / MANIFEST).exists():
        return open_app_bundle(root / "bundle")
    stamp.unlink(missing_ok=True)
    log = Log(root / "build.log")
    taken = [each for each in libraries() if each.built]
    _fetch(root, log)
    for library in taken:
        unpack(library, root / "fetched", root / "aars", log.do)
    log.do(_maven(SOURCES, "package", "-Dmaven.test.skip=true"), "compiling android_app")
    bundle = _assemble(root, taken, log)
    stamp.write_text(key)
    return bundle


def _fetch(root: Path, log: Log) -> None:
    """What android_app/tools/pom.xml names, in root/fetched; a second time only where it names other things."""
    order, stamp = SOURCES / "tools" / "pom.xml", root / "fetched" / ".fetched"
    if not stamp.exists() or stamp.read_text() != weigh(order)[1]:
        log.do(_maven(order.parent, "process-resources"), "fetching tools and libraries")
        stamp.write_text(weigh(order)[1])


def _key() -> str:
    """All that decides the bundle, as text."""
    own = [Path(__file__).with_name(f"{name}.py") for name in ("build", "bundle", "libraries", "package")]
    sources = sorted(path for path in SOURCES.rglob("*") if path.is_file() and path.suffix not in (".gradle", ".md"))
    return json.dumps({str(path): weigh(path)[1] for path in [*own, *sources, HERE / "versions.toml"]}, indent=0)


def _maven(folder: Path, *goals: str) -> list[str]:
    return ["mvn", "-B", "-q", "-f", str(folder / "pom.xml"), *goals]


def _assemble(root: Path, taken: Sequence[Library], log: Log) -> AppBundle:
    """Everything in one folder, its manifest written last."""
    fetched, partial = root / "fetched", root / ".bundle.partial"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "lane").mkdir(parents=True)
    tools = Tools(fetched / "r8.jar", fetched / "android-all.jar", make_key(root / "bench.keystore", log.do))
    work = root / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    apks = {}
    for name, formats in APKS.items():
        inside = [each for each in taken if each.format in formats]
        package = "compressexport.bench" if name == "bench" else f"compressexport.{name}"
        code = dex([*_jars(root, inside), _jar(root, "app")], work / f"{name}.jar", tools, log.do)
        content = apk(SOURCES / "app/src/main", package, code, _natives(root, inside), tools, log.do)
        (partial / f"{name}.apk").write_bytes(content)
        apks[name] = Build(f"{name}.apk", package, {each.format: each.built for each in inside})
    lane = _lane(root, [each for each in taken if each.format in APKS["bench"]], partial, tools, log)
    _desk(root, partial / "desk")
    write_app_bundle(partial, apks, lane)
    shutil.rmtree(root / "bundle", ignore_errors=True)
    partial.rename(root / "bundle")
    return open_app_bundle(root / "bundle")


def _lane(root: Path, inside: Sequence[Library], partial: Path, tools: Tools, log: Log) -> Build:
    """What `app_process` runs without an installed app: the dexed core and the runtimes' own libraries."""
    code = dex(_jars(root, inside), root / "work" / "core.jar", tools, log.do)
    shutil.copy(code, partial / "lane" / "core.jar")
    for library in _natives(root, inside):
        shutil.copy(library, partial / "lane" / library.name)
    return Build("lane", "", {each.format: each.built for each in inside})


def _desk(root: Path, folder: Path) -> None:
    """The same core and ONNX engine for a JVM on a desk."""
    folder.mkdir()
    for jar in (_jar(root, "core"), _jar(root, MODULES["onnx"])):
        shutil.copy(jar, folder / jar.name)
    for name in ("onnxruntime.jar", "android-json.jar"):
        shutil.copy(root / "fetched" / name, folder / name)


def _jars(root: Path, inside: Sequence[Library]) -> list[Path]:
    jars = [_jar(root, "core")]
    for library in inside:
        jars += [_jar(root, MODULES[library.format]), *sorted((root / "aars" / library.format).glob("*.jar"))]
        jars += [root / "fetched" / name for name in EXTRA[library.format]]
    return jars


def _jar(root: Path, module: str) -> Path:
    return root / "maven" / module / f"{module}.jar"


def _natives(root: Path, inside: Sequence[Library]) -> list[Path]:
    return [path for each in inside for path in sorted((root / "aars" / each.format).glob("*.so"))]


def main() -> int:
    """Builds the bundle; exit status 1 with one message if that fails."""
    try:
        bundle = build()
    except BenchError as error:
        print(f"app: {error}", file=sys.stderr)
        return 1
    for each in (*bundle.apks.values(), bundle.lane):
        engines = ", ".join(f".{form} {version}" for form, version in each.engines.items())
        print(f"{bundle.path / each.file}: {engines}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
