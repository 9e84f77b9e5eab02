"""versions.toml as values: which engine stands in which lane, and in which version."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ENGINES = ("pte", "onnx", "ptl")


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
