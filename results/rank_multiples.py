"""The steps of the rank that kernels work in: a layer of R channels for R = 1..64, results/rank_multiples.jsonl.

    python results/rank_multiples.py [FORMAT ...]

Two layers as factors have them: 1x1 from 128 channels to R and back to 128 (SVD), and 3x3 from R channels to R between
two 1x1 (Tucker). The time is that of the whole form; what matters is where it steps. Takes a minute for each format.
"""

import json
import sys
import tempfile
from pathlib import Path

from bench.host.facts import describe
from bench.host.layer_latency import LAYER_DEVICES, Effort, TimedFile, most_swept
from compress_export.latency.layer_files import Geometry, writing

TABLE = Path(__file__).with_name("rank_multiples.jsonl")
RANKS = (*range(1, 33), 36, 40, 44, 48, 52, 56, 60, 62, 63, 64)
FORMS = {
    "svd": (Geometry("conv", 128, 128, True, (28, 28)), lambda rank: (rank,)),
    "tucker": (Geometry("conv", 128, 128, True, (28, 28), window=(3, 3), padding=(1, 1)), lambda rank: (rank, rank)),
}


def rows(format: str) -> list[dict[str, object]]:
    """The table's lines for one format: all ranks of a form take turns, three times over."""
    device = LAYER_DEVICES["host"]
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        writing(format, Path(folder), 1) as files,
        device.stopwatch(format, 1) as watch,
    ):
        for method, (geometry, rank_of) in FORMS.items():
            paths = [files.variant(geometry, method, rank_of(rank)) for rank in RANKS]
            times = watch.time(
                [TimedFile(path.result(), geometry.image, most_swept()) for path in paths], Effort(30, 30)
            )
            found.append(
                {
                    "format": format,
                    "runtime": device.runtime_version(format),
                    "device": describe().cpu,
                    "form": method,
                    "geometry": geometry.title,
                    "ms": {rank: round(time.ms, 4) for rank, time in zip(RANKS, times, strict=True)},
                }
            )
    return found


def main() -> None:
    known = [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []
    asked = sys.argv[1:] or ["pte", "onnx", "ptl"]
    lines = [row for row in known if row["format"] not in asked]
    for format in asked:
        lines += rows(format)
    TABLE.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
