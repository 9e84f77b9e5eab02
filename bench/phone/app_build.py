"""`python -m bench.phone.app_build`: fetches Android libraries, compiles android_app/, packages the bundle."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.measurement import BenchError
from bench.runner import bundle as bundles
from bench.runner.build import HERE, Log
from bench.runner.bundle import APP_ROOT, MANIFEST, AppBundle, Build, open_app_bundle, write_app_bundle
from exporters.artifact import size_and_sha256

ABI = "arm64-v8a"
Do = Callable[[list[str], str], None]
"""Runs a command and says what for; raises BenchError where it fails."""


@dataclass(frozen=True)
class Library:
    """One runtime for Android. `version` is what an app takes, `built` what this build takes, "" where it has none.

    `files` are what it comes in, by name, with the sha256 of each: paths in the npm package that `npm` names, or what
    android_app/tools/pom.xml brings from Maven Central.
    """

    format: str
    package: str
    version: str
    built: str = ""
    npm: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


def libraries() -> tuple[Library, ...]:
    """The app lane of versions.toml."""
    row = tomllib.loads((HERE / "versions.toml").read_text(encoding="utf-8"))["app"]
    return tuple(Library(form, **fields) for form, fields in row.items())


def unpack(library: Library, fetched: Path, aars: Path, do: Do) -> None:
    """Brings the library's classes and its libraries for ARM to aars/FORMAT: what an .aar calls classes.jar takes the
    .aar's own name there. BenchError if a file is not the pinned one."""
    folder = aars / library.format
    stamp, pins = folder / "sha256", "".join(f"{sha256}  {name}\n" for name, sha256 in library.files.items())
    if stamp.exists() and stamp.read_text() == pins:
        return
    _from_npm(library, fetched, do)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, wanted in library.files.items():
        _, found = size_and_sha256(fetched / Path(name).name)
        if found != wanted:
            raise BenchError(
                f"{library.package} {library.built} is not the library that versions.toml pins: the sha256 of {name} "
                f"is {found}, and {wanted} was wanted; look at what changed before you change the pin"
            )
        file = fetched / Path(name).name
        if file.suffix != ".aar":
            shutil.copy(file, folder / file.name)
            continue
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                if member == "classes.jar" or (member.startswith(f"jni/{ABI}/") and member.endswith(".so")):
                    own = f"{file.stem}.jar" if member == "classes.jar" else Path(member).name
                    (folder / own).write_bytes(archive.read(member))
    stamp.write_text(pins)


def _from_npm(library: Library, fetched: Path, do: Do) -> None:
    """The files of the npm package in `fetched`, where one of them is missing or another one."""
    members = {name: fetched / Path(name).name for name in library.files if name.startswith("package/")}
    if all(file.exists() and size_and_sha256(file)[1] == library.files[name] for name, file in members.items()):
        return
    work = fetched / "npm"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    do(["npm", "pack", "--silent", "--pack-destination", str(work), library.npm], f"fetching {library.npm}")
    (packed,) = work.glob("*.tgz")
    with tarfile.open(packed) as archive:
        for name, file in members.items():
            content = archive.extractfile(name) if name in archive.getnames() else None
            if content is None:
                raise BenchError(f"{library.npm} has no {name}; look where it went")
            with file.open("wb") as target:
                shutil.copyfileobj(content, target)
    shutil.rmtree(work)


LEAST_SDK = 24
KEY = ["-alias", "bench", "-storepass", "android", "-keypass", "android"]


@dataclass(frozen=True)
class Tools:
    """Paths of the build's own tools: the dexer, Android's framework, the key that signs."""

    r8: Path
    framework: Path
    key: Path


def dex(jars: Sequence[Path], target: Path, tools: Tools, do: Do) -> Path:
    """The jars' code as one archive with classes.dex and the jars' other files, for Android 7 and later."""
    words = ["java", "-Xmx1g", "-cp", str(tools.r8), "com.android.tools.r8.D8", "--release", "--lib"]
    words += [str(tools.framework), "--min-api", str(LEAST_SDK), "--output", str(target), *map(str, jars)]
    do(words, f"dexing {target.name}")
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive:
        for jar in jars:
            with zipfile.ZipFile(jar) as source:
                for name in source.namelist():
                    if name.startswith("compressexport/") and name.endswith(".properties"):
                        archive.writestr(name, source.read(name))
    return target


def apk(app: Path, package: str, code: Path, libraries: Sequence[Path], tools: Tools, do: Do) -> bytes:
    """A signed APK of the sources in `app` (its manifest; it has no resources), with dexed code and native libraries.

    The libraries are compressed, and the manifest lets Android unpack them at installation: so they are aligned to
    pages of any size as far as their own segments are.
    """
    work = code.parent
    linked, aligned = work / f"{package}.linked", work / f"{package}.apk"
    words = ["aapt2", "link", "--manifest", str(app / "AndroidManifest.xml"), "-I", str(tools.framework)]
    do([*words, "--rename-manifest-package", package, "-o", str(linked)], f"linking {package}")
    with zipfile.ZipFile(linked, "a", zipfile.ZIP_DEFLATED) as archive, zipfile.ZipFile(code) as dexed:
        for name in dexed.namelist():
            archive.writestr(name, dexed.read(name))
        for library in libraries:
            archive.write(library, f"lib/{ABI}/{library.name}")
    do(["zipalign", "-f", "4", str(linked), str(aligned)], f"aligning {package}")
    signer = ["apksigner", "sign", "--ks", str(tools.key), "--ks-pass", "pass:android", "--key-pass", "pass:android"]
    do([*signer, "--min-sdk-version", str(LEAST_SDK), str(aligned)], f"signing {package}")
    return aligned.read_bytes()


def make_key(path: Path, do: Do) -> Path:
    """A key to sign with, made once: an app installs over another of the same key only."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        size = ["-keyalg", "RSA", "-keysize", "2048", "-validity", "10000", "-dname", "CN=compress-export"]
        do(["keytool", "-genkeypair", "-keystore", str(path), *KEY, *size], "making a key to sign with")
    return path


SOURCES = Path(__file__).resolve().parents[2] / "android_app"
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
"""Libraries that the Java side of PyTorch's libraries calls."""
EXTRA = {"pte": JNI[1:], "onnx": (), "ptl": JNI}
MODULES = {"onnx": "engine-onnx", "ptl": "engine-torchscript", "pte": "engine-executorch"}


def build(root: Path = APP_ROOT.parent) -> AppBundle:
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
    taken = [library for library in libraries() if library.built]
    # What the tools' pom.xml names is fetched a second time only where it names other things.
    pom, fetched = SOURCES / "tools" / "pom.xml", root / "fetched" / ".fetched"
    if not fetched.exists() or fetched.read_text() != size_and_sha256(pom)[1]:
        log.do(_maven(pom.parent, "process-resources"), "fetching tools and libraries")
        fetched.write_text(size_and_sha256(pom)[1])
    for library in taken:
        unpack(library, root / "fetched", root / "aars", log.do)
    log.do(_maven(SOURCES, "package", "-Dmaven.test.skip=true"), "compiling android_app")
    bundle = _assemble(root, taken, log)
    stamp.write_text(key)
    return bundle


def _key() -> str:
    """All that decides the bundle, as text."""
    own = [Path(__file__), Path(bundles.__file__)]
    sources = sorted(path for path in SOURCES.rglob("*") if path.is_file() and path.suffix not in (".gradle", ".md"))
    return json.dumps(
        {str(path): size_and_sha256(path)[1] for path in [*own, *sources, HERE / "versions.toml"]}, indent=0
    )


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
        inside = [library for library in taken if library.format in formats]
        package = "compressexport.bench" if name == "bench" else f"compressexport.{name}"
        code = dex([*_jars(root, inside), _jar(root, "app")], work / f"{name}.jar", tools, log.do)
        content = apk(SOURCES / "app/src/main", package, code, _natives(root, inside), tools, log.do)
        (partial / f"{name}.apk").write_bytes(content)
        apks[name] = Build(f"{name}.apk", package, {library.format: library.built for library in inside})
    # The lane is what `app_process` runs without an installed app: the dexed core and the runtimes' own libraries.
    inside = [library for library in taken if library.format in APKS["bench"]]
    shutil.copy(dex(_jars(root, inside), work / "core.jar", tools, log.do), partial / "lane" / "core.jar")
    for library in _natives(root, inside):
        shutil.copy(library, partial / "lane" / library.name)
    # The desk has the same core and ONNX engine for a JVM.
    desk = (_jar(root, "core"), _jar(root, MODULES["onnx"]), fetched / "onnxruntime.jar", fetched / "android-json.jar")
    (partial / "desk").mkdir()
    for jar in desk:
        shutil.copy(jar, partial / "desk" / jar.name)
    write_app_bundle(partial, apks, Build("lane", "", {library.format: library.built for library in inside}))
    shutil.rmtree(root / "bundle", ignore_errors=True)
    partial.rename(root / "bundle")
    return open_app_bundle(root / "bundle")


def _jars(root: Path, inside: Sequence[Library]) -> list[Path]:
    jars = [_jar(root, "core")]
    for library in inside:
        jars += [_jar(root, MODULES[library.format]), *sorted((root / "aars" / library.format).glob("*.jar"))]
        jars += [root / "fetched" / name for name in EXTRA[library.format]]
    return jars


def _jar(root: Path, module: str) -> Path:
    return root / "maven" / module / f"{module}.jar"


def _natives(root: Path, inside: Sequence[Library]) -> list[Path]:
    return [path for library in inside for path in sorted((root / "aars" / library.format).glob("*.so"))]


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
