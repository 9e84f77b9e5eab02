"""From compiled classes to what a phone takes: dexed code, an APK with libraries in it, a signature."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.phone.app.libraries import ABI, Do

LEAST_SDK = 24
KEY = ["-alias", "bench", "-storepass", "android", "-keypass", "android"]


@dataclass(frozen=True)
class Tools:
    """Where the build's own tools lie: the dexer, Android's framework, the key that signs."""

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
