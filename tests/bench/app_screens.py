"""The app's screens on a JVM: Robolectric with the app that `make app` built, driven by android_app's own tests."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "android_app/app/src/test/java/compressexport/app"
NEWEST = "android-all-instrumented-15-*.jar"


@dataclass(frozen=True)
class Screens:
    """android_app's tests of the screens, compiled. `path` is their class path, `frameworks` Android's own jars."""

    path: str
    frameworks: Path

    def run(self, files: Path, told: Path) -> subprocess.CompletedProcess[str]:
        """Runs every test with these files; what the screens show of them is left in `told`."""
        quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-XX:MaxDirectMemorySize=64m")
        opened = tuple(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in ("java.io", "java.lang", "java.util"))
        offline = ("-Drobolectric.offline=true", f"-Drobolectric.dependency.dir={self.frameworks}")
        own = (f"-Dscreens.files={files}", f"-Dscreens.told={told}")
        names = [f"compressexport.app.{path.stem}" for path in sorted(TESTS.glob("*Test.java"))]
        words = ["java", *quick, *opened, *offline, *own, "-cp", self.path, "org.junit.runner.JUnitCore", *names]
        return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)


def compile_screens(built: Path, checks: Path, classes: Path) -> Screens:
    """Compiles the tests against the app in `built`, with what `checks` holds."""
    (framework,) = (checks / "frameworks").glob(NEWEST)
    own = [built / "maven" / name / f"{name}.jar" for name in ("app", "core", "engine-onnx", "engine-torchscript")]
    runtimes = [built / "aars/ptl/pytorch_android_lite.jar", built / "fetched/onnxruntime.jar"]
    runtimes += [built / "fetched" / name for name in ("fbjni-java-only.jar", "nativeloader.jar")]
    path = ":".join(map(str, [*own, *runtimes, checks / "jars" / "*"]))
    oldest = built / "fetched/android-all.jar"
    words = ["javac", "-Xlint:all,-classfile", "-Werror", "-cp", f"{path}:{oldest}", "-d", str(classes)]
    done = subprocess.run([*words, *map(str, TESTS.glob("*.java"))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    own_apk(classes, built / "bundle/bench.apk")
    return Screens(f"{classes}:{path}:{framework}", checks / "frameworks")


def own_apk(classes: Path, apk: Path) -> None:
    """Lets Robolectric take theme, label and activities from the app that a phone would install."""
    told = classes / "com/android/tools/test_config.properties"
    told.parent.mkdir(parents=True)
    manifest = ROOT / "android_app/app/src/main/AndroidManifest.xml"
    told.write_text(f"android_merged_manifest={manifest}\nandroid_resource_apk={apk}\n")
