"""Accuracy against the compression factor of fully connected layers, with each regularizer and without.

    python results/sharing.py mnist --data-root DIR [--terms none,quartic] [--table FILE] [--threads 1]

DIR is a folder as torchvision keeps it, or for CIFAR-10 one with a sheet for each class. A line of the table is one
network, trained or trained and shared; what is there already is not made again. The trained networks lie in
build/sharing. Every weight of a regularizer is tried with the first seed; the one that keeps most top-1 on held-out
images straight after sharing is taken for the other seeds. MNIST takes half an hour on one thread. Networks are trained
on a CUDA GPU where there is one; to train with several terms at once, start it once for none, then once for each
term, each with a table of its own, and put the tables' lines together.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from sharing_studies import CALIBRATION_BATCH, DATA, STUDIES, Parts, Study
from torch import nn

from compressor.calibration import collect
from compressor.distributed import SINGLE_PROCESS, SingleProcess
from compressor.surgery import load_weights, save_weights
from compressor.survey import survey
from compressor.training.loop import Accuracy, TrainOptions, accuracy, fit
from compressor.training.schedules import Step
from compressor.weight_sharing.layers import SharedRow, plan_sharing, share
from compressor.weight_sharing.product_quantization import Sharing
from compressor.weight_sharing.regularizers import REGULARIZERS, Regularization

HERE = Path(__file__).resolve().parent
TABLE = HERE / "sharing.jsonl"
NETWORKS = HERE.parent / "build" / "sharing"
VERSION = 1
GROUP = SingleProcess(torch.device("cuda")) if torch.cuda.is_available() else SINGLE_PROCESS


@dataclass(frozen=True)
class Cell:
    """One line of a study, which `data` names: which network, shared how, if at all; `follows` are the centroids of the
    centroid term."""

    data: str
    regularizer: str | None
    weight: float
    seed: int
    sharing: Sharing | None
    follows: Sharing | None = None

    @property
    def key(self) -> str:
        return json.dumps(asdict(self))


def cells(name: str, study: Study, rows: list[dict[str, Any]]) -> Iterator[Cell]:
    """All cells: every weight with the first seed, then the other seeds, which take the best of them.

    A network that follows centroids is trained anew for each sharing; its weights are tried with the `probe` alone.
    """
    for kind, weights in study.weights.items():
        for weight in weights:
            yield from _row_of(name, kind, weight, study.seeds[0], (study.probe,) if follows(kind) else study.sharings)
        if kind is None:
            yield from (Cell(name, kind, 0.0, study.seeds[0], sharing) for sharing in study.once)
    for seed in study.seeds:
        for kind in study.weights:
            weight = 0.0 if kind is None else best_weight(name, kind, study, rows)
            yield from _row_of(name, kind, weight, seed, (study.probe,) if follows(kind) else study.sharings)
    for kind in filter(follows, study.weights):
        for seed in study.seeds:
            yield from _row_of(name, kind, best_weight(name, kind, study, rows), seed, study.sharings)


def _row_of(name: str, kind: str | None, weight: float, seed: int, sharings: tuple[Sharing, ...]) -> Iterator[Cell]:
    if not follows(kind):
        yield from (Cell(name, kind, weight, seed, sharing) for sharing in (None, *sharings))
        return
    for own in sharings:
        yield Cell(name, kind, weight, seed, None, own)
        yield Cell(name, kind, weight, seed, own, own)


def follows(kind: str | None) -> bool:
    return kind is not None and REGULARIZERS[kind].follows


def best_weight(data: str, kind: str, study: Study, rows: list[dict[str, Any]]) -> float:
    """The weight that keeps most top-1 on held-out images straight after sharing: first seed, mean over sharings."""
    tried = [asdict(each) for each in ((study.probe,) if follows(kind) else study.sharings)]

    def kept(weight: float) -> float:
        own = (row for row in rows if (row["data"], row["regularizer"], row["weight"]) == (data, kind, weight))
        return mean(row["shared_held_out"] for row in own if row["seed"] == study.seeds[0] and row["sharing"] in tried)

    return max(study.weights[kind], key=kept)


def trained(cell: Cell, study: Study, data: Parts) -> nn.Module:
    """The trained network of a cell, from build/sharing where it was trained before."""
    place = NETWORKS / f"{cell.data}-{cell.regularizer}-{cell.weight:g}-{cell.seed}{_suffix(cell.follows)}.safetensors"
    torch.manual_seed(cell.seed)
    network = study.network()
    if place.exists():
        load_weights(network, place)
        return network.eval()
    regularizer = (
        None if cell.regularizer is None else Regularization(cell.regularizer, cell.weight, cell.follows or study.probe)
    )
    options = TrainOptions(rate=study.rate, seed=cell.seed, regularizer=regularizer)
    fit(network, data.train, data.validation, (Step((), study.epochs),), options, group=GROUP)
    place.parent.mkdir(parents=True, exist_ok=True)
    save_weights(network, place)
    return network.eval()


def _suffix(sharing: Sharing | None) -> str:
    return "" if sharing is None else f"-{sharing.length}x{sharing.centroids}"


def row(cell: Cell, study: Study, data: Parts) -> dict[str, Any]:
    """The line of a cell. Flips are counted against the network of the same seed without term and sharing."""
    start = time.monotonic()
    device = GROUP.device
    plain = accuracy(trained(Cell(cell.data, None, 0.0, cell.seed, None), study, data), data.test, device)
    network = trained(cell, study, data)
    found: dict[str, Any] = {
        "version": VERSION,
        **asdict(cell),
        "shared_top1": None,
        "shared_held_out": None,
        "factor": 1.0,
        "bits": None,
    }
    if cell.sharing is not None:
        images = next(iter(data.validation))[0][:32]
        rows = plan_sharing(survey(network, images), cell.sharing)
        images_read = data.calibration[: study.calibration // CALIBRATION_BATCH]
        moments = collect(network, images_read, [each.name for each in rows if each.kept is None])
        model = share(network, rows, cell.sharing, cell.seed, moments)
        straight = {"shared_top1": data.test, "shared_held_out": data.validation}
        found |= {name: accuracy(model.module, each, device).top1 for name, each in straight.items()}
        found |= counted(model.rows)
        network = copy.deepcopy(model.module)
        options, steps = TrainOptions(rate=study.rate, seed=cell.seed), (Step((), study.tuning),)
        fit(network, data.train, data.validation, steps, options, group=GROUP)
    after = accuracy(network, data.test, device)
    return {
        **found,
        "top1": after.top1,
        "held_out": accuracy(network, data.validation, device).top1,
        **flips(plain, after),
        "seconds": round(time.monotonic() - start, 1),
    }


def counted(rows: tuple[SharedRow, ...]) -> dict[str, Any]:
    """Bits of all fully connected weights, those that are kept as they are included, and the factor that follows."""
    dense = sum(32 * torch.Size(each.weight).numel() for each in rows)
    total = sum(32 * torch.Size(each.weight).numel() if each.bits is None else each.bits.total for each in rows)
    errors = {each.name: each.error for each in rows if each.error is not None}
    return {"bits": total, "dense_bits": dense, "factor": dense / total, "errors": errors}


def flips(before: Accuracy, after: Accuracy) -> dict[str, int]:
    pairs = list(zip(before.correct, after.correct, strict=True))
    return {"gained": sum(b and not a for a, b in pairs), "lost": sum(a and not b for a, b in pairs)}


def lines(table: Path) -> list[dict[str, Any]]:
    """The lines there are; a last one that a kill cut short is left out."""
    if not table.exists():
        return []
    whole = [line for line in table.read_text().splitlines(keepends=True) if line.endswith("\n")]
    rows = [json.loads(line) for line in whole]
    other = {row.get("version") for row in rows} - {VERSION}
    if other:
        sys.exit(f"{table.name} has lines of version {other.pop()}, this script writes {VERSION}; move the file away")
    table.write_text("".join(whole))
    return rows


def some(study: Study, terms: str | None) -> Study:
    """The study with those of its regularizers alone that the words name."""
    if terms is None:
        return study
    words = terms.split(",")
    known = {kind or "none": own for kind, own in study.weights.items()}
    unknown = sorted(set(words) - set(known))
    if unknown:
        sys.exit(f"there is no term {unknown[0]!r} here; choose among {', '.join(known)}")
    return replace(study, weights={kind: own for kind, own in study.weights.items() if (kind or "none") in words})


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("data", choices=list(STUDIES))
    reader.add_argument("--data-root", type=Path, required=True)
    reader.add_argument("--terms", help="These regularizers alone, and none, between commas.")
    reader.add_argument("--table", type=Path, default=TABLE, help="The file of lines.")
    reader.add_argument("--threads", type=int, default=1)
    asked = reader.parse_args()
    torch.set_num_threads(asked.threads)
    study = some(STUDIES[asked.data], asked.terms)
    data, rows = DATA[study.data](asked.data_root, study.batch), lines(asked.table)
    names = list(Cell.__dataclass_fields__)
    done = {json.dumps({name: each[name] for name in names}) for each in rows}
    for cell in cells(asked.data, study, rows):
        if cell.key in done:
            continue
        done.add(cell.key)
        rows.append(row(cell, study, data))
        with asked.table.open("a") as table:
            table.write(json.dumps(rows[-1]) + "\n")
        print({key: rows[-1][key] for key in (*names, "factor", "shared_top1", "top1", "held_out")}, flush=True)


if __name__ == "__main__":
    main()
