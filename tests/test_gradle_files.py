"""android_app's Gradle files, which nothing here can run, say what the tested Maven build does."""

import re
import tomllib
from pathlib import Path

from bench.phone.app_build import APKS, libraries

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "android_app"
BUILD = (APP / "app/build.gradle").read_text()
SCRIPT = (APP / "versions.gradle").read_text()
MANIFEST = (APP / "app/src/main/AndroidManifest.xml").read_text()
CHECKS = (APP / "checks/pom.xml").read_text()


def value(key, text=BUILD):
    """The value behind a word of a Gradle file, without its quotes."""
    return re.search(rf"^\s*{key} '?([\w.]+)'?", text, re.MULTILINE)[1]


def versions():
    """Versions that versions.gradle finds with its own patterns."""
    runtimes, checks = (pattern.replace(r"\/", "/") for pattern in re.findall(r"=~ /(.*)/\)\.each", SCRIPT))
    told = (ROOT / "bench/runner/versions.toml").read_text()
    found = {form: f"{package}:{version}" for form, package, version in re.findall(runtimes, told)}
    return found | {name: f"{group}:{name}:{version}" for group, name, version in re.findall(checks, CHECKS)}


def test_releases_stand_in_one_place():
    found = versions()
    wanted = {each.format: f"{each.package}:{each.version}" for each in libraries()}
    for name in ("robolectric", "junit"):
        (group, version), *more = re.findall(
            rf"<groupId>(.*)</groupId>\s*<artifactId>{name}</artifactId>\s*<version>(.*)</version>", CHECKS
        )
        assert not more
        wanted[name] = f"{group}:{name}:{version}"
    assert found == wanted
    assert set(re.findall(r"versions\.(\w+)$", BUILD, re.MULTILINE)) == set(wanted), "each is asked for by its name"
    assert re.findall(r"\d+\.\d+\.\d+", BUILD + SCRIPT) == [value("versionName")]


def test_the_app_is_the_one_that_maven_builds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parent = (APP / "pom.xml").read_text()
    assert value("versionName") == project["version"] == re.search(r"<version>([\d.]+)</version>", parent)[1]
    for key, name in (("minSdk", "minSdkVersion"), ("targetSdk", "targetSdkVersion"), ("versionCode", "versionCode")):
        assert f'android:{name}="{value(key)}"' in MANIFEST
    assert f'android:versionName="{value("versionName")}"' in MANIFEST
    assert f'package="{value("namespace")}"' in MANIFEST, "Android's plugin refuses two names"
    assert re.findall(r"applicationId '([\w.]+)'", BUILD) == [f"compressexport.{name}" for name in APKS]
    release = re.search(r"<maven.compiler.release>(\d+)<", parent)[1]
    assert BUILD.count(f"JavaVersion.VERSION_{release}") == 2


def test_the_folders_that_it_names_are_there():
    lines = re.findall(r"(\w+)\.java\.srcDirs (.*)", BUILD)
    named = {flavor: re.findall(r"'(\.\./[\w/]+)'", line) for flavor, line in lines}
    assert all((APP / "app" / folder).is_dir() for folders in named.values() for folder in folders)
    engines = {name: {Path(folder).parts[2] for folder in named[name]} for name in APKS}
    folders = {"pte": "executorch", "onnx": "onnx", "ptl": "torchscript"}
    assert engines == {name: {folders[form] for form in forms} for name, forms in APKS.items()}
    assert re.findall(r"include ':(\w+)'", (APP / "settings.gradle").read_text()) == ["app"]
    assert "apply from: '../versions.gradle'" in BUILD


def test_each_engine_that_asks_for_its_release_is_told():
    told = dict(re.findall(r"(\w+): \['(?:\w+)', '(\w+)'\]", SCRIPT))
    asked = {path.stem for path in (APP / "engines").rglob("*.properties")}
    assert told.keys() == asked
    assert set(told.values()) <= versions().keys()
    flavors = dict(re.findall(r"(\w+): \['(\w+)', '\w+'\]", SCRIPT))
    assert all(told[engine] in APKS[flavor] for engine, flavor in flavors.items())
