"""A compressed AlexNet's instructions on the simulated Cortex-A76, exact, for budgets.toml.

    make runner && python results/counted.py [FOLDER]

writes FOLDER (runs/counted unless given) as a run directory: the network of PLAN, a plan that the demo once found,
with seeded weights (counts do not depend on them), as .pte and .onnx, and a simulated row of each. The demo's own plan
follows times measured on the day, so a change of the code cannot be held against its counts. Takes half a minute.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.devices import DEVICES
from bench.measurement import append
from bench.run_files import COMPRESSED, RUN_VERSION
from compress_export.data.images import View, photograph_crops
from compress_export.models.networks import NetworkRequest, load_network, settle
from compressor.plan import LayerPlan
from compressor.surgery import skeleton
from exporters.artifact import write_artifacts
from exporters.export import export

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ("pte", "onnx")
IMAGE = (3, 64, 64)
PLAN = {
    "features.0": ((64, 3, 11, 11), "tucker", (1, 8)),
    "features.3": ((192, 64, 5, 5), "cp-polished", (56,)),
    "features.6": ((384, 192, 3, 3), "cp-polished", (60,)),
    "features.8": ((256, 384, 3, 3), "cp-polished", (44,)),
    "features.10": ((256, 256, 3, 3), "cp-polished", (60,)),
    "classifier.1": ((4096, 9216), "svd", (60,)),
    "classifier.4": ((4096, 4096), "svd", (44,)),
    "classifier.6": ((10, 4096), "keep", ()),
}


def layers() -> Iterator[LayerPlan]:
    for name, (weight, method, rank) in PLAN.items():
        yield LayerPlan(name, weight, method, rank, "given")


def compressed(images: torch.Tensor) -> torch.nn.Module:
    """AlexNet with the plan's factors, all weights seeded."""
    torch.manual_seed(0)
    module = load_network(NetworkRequest("alexnet", "none", IMAGE, 10)).module
    skeleton(module, layers())
    with torch.no_grad():
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    settle(module, images)
    return module.eval()


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "artifacts").mkdir(parents=True)
    images = photograph_crops(View(IMAGE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 4)
    module = compressed(images)
    files = [export(module, images[:1], form, folder / "artifacts" / f"{COMPRESSED}.{form}") for form in FORMATS]
    write_artifacts(folder / "artifacts.json", files)
    (folder / "settings.json").write_text(json.dumps({"version": RUN_VERSION}) + "\n", encoding="utf-8")
    rows = DEVICES["arm"].measure(files, images.numpy())
    append(folder / "measurements.jsonl", rows)
    for row in rows:
        print(row.format, f"{row.run.instructions:,} instructions, cosine {row.parity.cosine:.9f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "counted")
