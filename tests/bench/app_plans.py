"""Plans for the app's core, and the JVM that runs it."""

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.measurement import Device, Schedule
from bench.phone.app import AppPlan
from exporters.artifact import Artifact

DEVICE = Device("phone", "Nobody Virtual 8", "VP8450", 8, "Android 14", 7812345, "VP0001", 4096, "app")
QUICK = Schedule(warmup_runs=1, warmup_seconds=0, runs=4, seconds=0.02, cap_seconds=3)


@dataclass(frozen=True)
class Core:
    """android_app/core with the ONNX engine, on a JVM of this machine."""

    desk: Path
    checks: Path

    def run(self, *words: object, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        path = f"{self.desk}/*:{self.checks}"
        # One compiler tier and one collector thread: the JVM starts in a third of the time.
        quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
        command = ["java", *quick, *options, "-cp", path, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def measure(self, folder: Path, plan: AppPlan, options: tuple[str, ...] = ()) -> str:
        """The row that the core leaves for the plan."""
        (folder / "plan.json").write_text(plan.to_json())
        done = self.run("compressexport.core.Main", folder / "plan.json", folder / "result.json", options=options)
        assert done.returncode in (0, 1), done.stderr
        return (folder / "result.json").read_text()

    def check(self, what: str, folder: Path, asked: str) -> str:
        (folder / "asked.json").write_text(asked)
        done = self.run("compressexport.core.Check", what, folder / "asked.json", folder / "told")
        assert done.returncode == 0, done.stderr
        return (folder / "told").read_bytes().decode("latin-1")


def plan_for(folder: Path, artifact: Artifact, images: "np.ndarray", reference: "np.ndarray | None" = None) -> AppPlan:
    """A plan in `folder`, where the file lies already, with these images and answers beside it."""
    for number, image in enumerate(images):
        image.astype("<f4").tofile(folder / f"{number}.raw")
    if reference is not None:
        reference.astype("<f4").tofile(folder / "reference.raw")
    return AppPlan(
        artifact=replace(artifact, input=(1, *images.shape[1:])),
        file=artifact.path.name,
        images=tuple(f"{number}.raw" for number in range(len(images))),
        cores=None,
        reference=None if reference is None else "reference.raw",
        outputs="answers.raw",
        schedule=QUICK,
        device=DEVICE,
        session="s",
        turn=3,
        measured_at="2026-11-20T09:41:00+00:00",
    )
