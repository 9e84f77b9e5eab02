"""Writes the tables of README.md and docs/ from the lines of results/*.jsonl: `python results/tables.py`."""

import json
import shlex
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from compress_export.study.grids import GRIDS, Cell
from compress_export.study.results import (
    Line,
    TrainedLine,
    groups_of,
    longest_of_ours,
    ours_table,
    paper_table,
    spread,
    to_line,
    trained_table,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
Rows = Sequence[dict[str, Any]]


def typed(row: dict[str, Any]) -> str:
    """The command of a line, between backticks; the name of its run is left to the tool."""
    return f"`{row['command'].removesuffix(' --name run')}`"


def study_command(lines: Sequence[TrainedLine]) -> str:
    """The command that makes the cells of one row of the study, which differ in their seed alone, between backticks."""
    cell = lines[0].cell
    grid = next(name for name in (lines[0].grid, *GRIDS) if _holds(name, cell))
    optimizer, rate, shape = cell.course.partition(",")[0].split()
    seeds = sorted({line.cell.seed for line in lines})
    settings = {
        "fine_tune.optimizer": optimizer if optimizer != "adamw" else None,
        "fine_tune.rate": rate,
        "fine_tune.rate_schedule": shape,
        "source.batch": cell.course.rpartition(" ")[2],
        "source.images": cell.images,
    }
    words = [
        f"compress-export study {grid} --network {cell.network}",
        "--train 12" if cell.network == "alexnet" else "--input 3x32x32",
        f"--data {cell.data} --systems {shlex.quote(cell.system)} --budgets {cell.budget}",
        f"--seeds {','.join(map(str, seeds))}" if seeds != list(GRIDS[grid].seeds) else "",
        f"--epochs {cell.epochs:g}" if cell.epochs != GRIDS[grid].epochs else "",
        *(f"--set {name}={value}" for name, value in settings.items() if value is not None),
        "--cap 2" if any(line.ms for line in lines) else "",
    ]
    return f"`{' '.join(filter(None, words))}`"


def _holds(grid: str, cell: Cell) -> bool:
    return cell.system in GRIDS[grid].systems and cell.budget in GRIDS[grid].budgets


def with_commands(table: list[list[str]], commands: Sequence[str]) -> list[list[str]]:
    """A table with one more column: the command of every row."""
    return [[*line, command] for line, command in zip(table, ["command", *commands], strict=True)]


def networks(rows: Rows) -> list[list[str]]:
    """Eleven networks: parameters, MACs, bytes of each format, the worst comparison with the module, what it cost."""
    table = [["network", "parameters", "MACs", *(f".{name} MB" for name in ("pte", "onnx", "ptl", "mlpackage")),
              "error / sd of logits", "same class", "s", "largest process, MB", "command"]]  # fmt: skip
    for row in rows:
        files = {(file["network"], file["format"]): file for file in row["files"]}
        # a Core ML file computes in float16
        compared = [file["parity"] for file in row["files"] if file["format"] != "mlpackage"]
        table.append(
            [
                row["network"],
                *(f"{before / 1e6:.2f}M -> {after / 1e6:.2f}M" for before, after in (row["parameters"], row["macs"])),
                *(
                    f"{files['original', name]['bytes'] / 1e6:.1f} -> {files['compressed', name]['bytes'] / 1e6:.1f}"
                    for name in ("pte", "onnx", "ptl", "mlpackage")
                ),
                f"{max(parity['relative_error'] for parity in compared):.0e}",
                f"{100 * min(parity['top1_agreement'] for parity in compared):.0f} %",
                f"{row['seconds']:.0f}",
                str(row["largest_process_mb"]),
                typed(row),
            ]
        )
    return table


def power_method(rows: Rows) -> list[list[str]]:
    """The race: a line for each kernel, times faster and relative explained energy at each rank."""
    ranks = sorted({row["rank"] for row in rows})
    table = [["kernel", "shape", *(f"rank {rank}" for rank in ranks), "CPU seconds at the last, ours and TensorLy's"]]
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        own = {row["rank"]: row for row in rows if row["kernel"] == kernel}
        last = own[ranks[-1]]
        table.append(
            [
                kernel,
                "x".join(map(str, last["shape"])),
                *(f"{own[rank]['times_faster']:.1f}x, {own[rank]['energy_ratio']:.4f}" for rank in ranks),
                f"{last['seconds']:.3f}, {last['tensorly_seconds']:.2f}",
            ]
        )
    return table


def forms(rows: Rows) -> list[list[str]]:
    """Weight error by form: means over the kernels."""
    table = [["form", "mean error", "worst", "largest stability", "fraction of parameters", "s"]]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        stability = [row["stability"] for row in own if row["stability"] is not None]
        table.append(
            [
                name,
                f"{mean(row['error'] for row in own):.3f}",
                f"{max(row['error'] for row in own):.3f}",
                f"{max(stability):.2f}" if stability else "",
                f"{mean(row['share'] for row in own):.3f}",
                f"{sum(row['seconds'] for row in own):.2f}",
            ]
        )
    return [table[0], *sorted(table[1:], key=lambda line: line[1])]


def outputs(rows: Rows) -> list[list[str]]:
    """Relative output error on other images at a quarter of the parameters: fitted to weights, and to outputs."""
    table = [["method", "layers", "fitted to weights", "fitted to outputs", "lower by"]]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        plain, aware = (mean(row[kind] for row in own) for kind in ("plain", "aware"))
        table.append([name, str(len(own)), f"{plain:.3f}", f"{aware:.3f}", f"{100 * (1 - aware / plain):.0f} %"])
    return table


def instructions(rows: Rows) -> list[list[str]]:
    """Instructions of whole files on the simulated Cortex-A76, counted, and by how much the prediction is off."""
    types = tuple(dict.fromkeys(row["dtype"] for row in rows))
    table = [["network, form", *(head for name in types for head in (f"{name}, counted", "predicted", "lines missed"))]]
    for name in dict.fromkeys(row["network"] for row in rows):
        cells = []
        for dtype in types:
            own = [row for row in rows if (row["network"], row["dtype"]) == (name, dtype)]
            for row in own:
                error, missed = row["predicted"] / row["instructions"] - 1, row["l2_misses"]
                cells += [
                    f"{row['instructions'] / 1e6:.2f}M",
                    f"{100 * error:+.1f} %",
                    f"{missed / 1e6:.2f}M",
                ]
            cells += [] if own else ["", "", ""]
        table.append([name.replace("-", ", "), *cells])
    return table


RUNTIMES = {"pte": "ExecuTorch", "onnx": "ONNX Runtime"}


def speed(rows: Rows) -> list[list[str]]:
    """Original and compressed in each runtime: what a plan was asked for, what it predicted, what was measured."""
    table = [["network and limit", "parameters", "MACs", "runtime", "ms", "times faster (95 %)", "while planning",
              "command"]]  # fmt: skip
    for row in rows:
        (before, after), (ratio, low, high) = row["ms"], row["time_ratio"]
        timed, runtime = row["timed_by_the_planner"], RUNTIMES[row["format"]]
        table.append(
            [
                row["row"],
                *(f"{first / 1e6:.2f}M -> {last / 1e6:.2f}M" for first, last in (row["parameters"], row["macs"])),
                runtime,
                f"{before:.2f} -> {after:.2f}",
                f"{1 / ratio:.2f} ({1 / high:.2f} to {1 / low:.2f})",
                "" if timed is None or runtime not in row["planned_for"] else f"{1 / timed:.2f}",
                typed(row),
            ]
        )
    return table


def simulated(rows: Rows) -> list[list[str]]:
    """AlexNet on the simulated Cortex-A76: what one run executes, original and compressed, by plan and format."""
    table = [["network, plan", "file", "MACs", "instructions", "of them vector", "compressed / original",
              "memory traffic, MB", "peak allocated, MB", "same counts", "cosine to the host's outputs"]]  # fmt: skip
    counts = [row for row in rows if row["what"] == "counts"]
    for row in counts:
        first = next(each for each in counts if (each["plan"], each["format"]) == (row["plan"], row["format"]))
        traffic, memory = row["traffic"], row["memory"]
        moved = traffic["line_bytes"] * (traffic["l2_misses"] + traffic["l2_written_back"])
        table.append(
            [
                " ".join(row["plan"].replace("--weights none", "").split()),
                f"{row['network']}.{row['format']}",
                f"{row['macs'] / 1e6:.1f}M",
                f"{row['instructions']:,}",
                f"{100 * row['run']['vector'] / row['instructions']:.0f} %",
                "" if row is first else f"{row['instructions'] / first['instructions']:.3f}",
                f"{moved / 1e6:.0f}",
                f"{(memory['peak'] - memory['start']) / 1e3:.0f}",
                f"{row['repeats']} of {row['repeats']}" if row["same_counts"] else "no",
                f"{row['cosine']:.9f}",
            ]
        )
    return table


Group = tuple[str, str]


def grouped(rows: Rows) -> dict[Group, dict[str, list[dict[str, Any]]]]:
    """Lines of the networks with every seed by (data, regularizer and its weight), then by sharing."""
    found: dict[Group, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        term = "none" if row["regularizer"] is None else f"{row['regularizer']}, {row['weight']:g}"
        own = row["sharing"]
        words = [] if own is None else [each for each in (own["split"], own["codebook"]) if each in ("rows", "block")]
        name = "not shared" if own is None else ",".join([f"{own['length']}x{own['centroids']}", *words])
        found.setdefault((row["data"], term), {}).setdefault(name, []).append(row)
    return found


def chosen(rows: Rows) -> dict[Group, dict[str, list[dict[str, Any]]]]:
    """The groups of the weights that were taken for every seed."""
    groups = grouped(rows)
    seeds = {key: len({row["seed"] for row in own["not shared"]}) for key, own in groups.items()}
    most = {data: max(count for (other, _), count in seeds.items() if other == data) for data, _ in groups}
    return {key: own for key, own in groups.items() if seeds[key] == most[key[0]]}


def sharing(rows: Rows) -> list[list[str]]:
    """Top-1 by factor and regularizer: mean and standard deviation over the seeds, straight after sharing and tuned."""
    table = [["data", "regularizer, weight", "shared as", "factor", "seeds", "top-1 when shared", "top-1 tuned", "sd",
              "command"]]  # fmt: skip
    for (data, term), own in chosen(rows).items():
        for name, lines in sorted(own.items(), key=lambda each: each[1][0]["factor"]):
            seeds = {row["seed"] for row in lines}  # one that follows centroids is trained for each sharing
            tuned = [mean(row["top1"] for row in lines if row["seed"] == seed) for seed in sorted(seeds)]
            straight = [row["shared_top1"] for row in lines if row["shared_top1"] is not None]
            table.append(
                [
                    data,
                    term,
                    name,
                    f"{lines[0]['factor']:.1f}x",
                    str(len(seeds)),
                    f"{mean(straight):.2f}" if straight else "",
                    f"{mean(tuned):.2f}",
                    f"{stdev(tuned):.2f}" if len(tuned) > 1 else "",
                    f"`python results/sharing.py {data} --data-root data --terms {term.partition(',')[0]}`",
                ]
            )
    return table


LOSSES = (0.5, 1.0, 2.0, 4.0)
"""Points of top-1 below the network without term and sharing at which factors are compared."""


def factor_at(points: Sequence[tuple[float, float]], top1: float) -> float | None:
    """The largest factor whose network keeps `top1`, of (factor, top-1) points, on straight lines in log factor.

    A point that another one beats in both is left out. None where every point lies below, or the last one above.
    """
    front = [own for own in sorted(points) if not any(f >= own[0] and t > own[1] for f, t in points)]
    for (near, above), (far, below) in pairwise(front):
        if above >= top1 > below:
            share = (above - top1) / (above - below)
            return float(near ** (1 - share) * far**share)
    return None


def sharing_factor(rows: Rows) -> list[list[str]]:
    """The factor of the fully connected layers at equal accuracy, with each regularizer and over that without; no row
    for an accuracy outside all measured points."""
    groups = chosen(rows)
    terms = list(dict.fromkeys(term for _, term in groups))
    table = [["data", "centroids", "top-1", *terms]]
    for data in dict.fromkeys(data for data, _ in groups):
        best = mean(row["top1"] for row in groups[data, "none"]["not shared"])
        for when, field in (("not tuned", "shared_top1"), ("tuned", "top1")):
            means = {term: points_of(groups[data, term], field) for term in terms if (data, term) in groups}
            for lost in LOSSES:
                factors = {term: factor_at(points, best - lost) for term, points in means.items()}
                if not any(factors.values()):
                    continue
                table.append([data, when, f"{best - lost:.2f}", *(_factor(factors, term) for term in terms)])
    return table


def points_of(lines: dict[str, list[dict[str, Any]]], field: str) -> list[tuple[float, float]]:
    """(factor, mean top-1) of each sharing."""
    return [(own[0]["factor"], mean(row[field] for row in own)) for name, own in lines.items() if name != "not shared"]


def _factor(factors: dict[str, float | None], term: str) -> str:
    if term not in factors:
        return "not measured"
    own, plain = factors[term], factors["none"]
    if own is None:
        return "not within the points"
    return f"{own:.1f}x" if plain is None or term == "none" else f"{own:.1f}x ({own / plain:.2f})"


def study_lines(rows: Rows) -> list[Line]:
    """The lines of study.jsonl, typed."""
    return [to_line(row) for row in rows]


def study(rows: Rows) -> list[list[str]]:
    """Systems at equal budgets and epochs: top-1, flips, and the difference to ours with McNemar's test."""
    lines = study_lines(rows)
    return with_commands(trained_table(lines), [study_command(own) for own in groups_of(lines).values()])


def real_images(rows: Rows) -> list[list[str]]:
    """Ours on all of a data set's images."""
    lines = study_lines(rows)
    return with_commands(ours_table(lines), [study_command(own) for own in longest_of_ours(lines).values()])


SHORT = (
    "alexnet, 7x fewer parameters and 0.17x the time",
    "vgg16, a quarter of the MACs and 0.28x the time",
    "resnet18, half the MACs",
    "resnet50, half the MACs",
    "mobilenet_v2, default",
    "efficientnet_b0, default",
)
"""The untrained networks of the README's table."""


def short(rows: Rows) -> list[list[str]]:
    """The README's table: untrained networks of `speed` and trained ones of `real_images`, timed in ONNX Runtime."""
    table = [["network and limit", "parameters", "MACs", "times faster", "top-1, %"]]
    timed = {row["row"]: row for row in _lines("speed.jsonl") if row["format"] == "onnx"}
    for title in SHORT:
        row = timed[title]
        fewer = [f"{before / after:.1f}x fewer" for before, after in (row["parameters"], row["macs"])]
        table.append([title, *fewer, f"{1 / row['time_ratio'][0]:.1f}", "not trained"])
    for (network, data, budget, *_), own in longest_of_ours(study_lines(rows)).items():
        if network.endswith("resnet20") and budget != "0.46x":
            continue
        pairs = [[line.parameters for line in own], [line.macs for line in own]]
        fewer = [f"{mean(before / after for before, after in column):.1f}x fewer" for column in pairs]
        faster = 1 / mean(line.ms.ratio.value for line in own if line.ms is not None and line.ms.ratio is not None)
        top1 = [spread([line.top1[name] for line in own]) for name in ("original", "compressed")]
        title = f"{network.rpartition(':')[2]} on {data}, {budget} the MACs"
        table.append([title, *fewer, f"{faster:.1f}", " -> ".join(top1)])
    return table


def int8(rows: Rows) -> list[list[str]]:
    """Each network's .pte in float32, in int8, at low rank, and in both; in float16."""
    head = ["network", "file", "bytes", "top-1, %", "flipped", "A76 instructions", "fewer", "L2 misses", "host, ms"]
    table = [[*head, "command"]]
    for row in rows:
        files = {file["kind"]: file for file in row["files"] if file["format"] == "pte"}
        for kind, file in files.items():
            accuracy, fewer = file["accuracy"], files["float32"]["instructions"] / file["instructions"]
            figures = [
                f"{file['bytes']:,}",
                "not trained" if accuracy is None else f"{accuracy['top1']:.2f}",
                "" if accuracy is None else f"{accuracy['flipped']:,} of {accuracy['images']:,}",
                f"{file['instructions'] / 1e6:.2f}M",
                f"{fewer:.2f}x",
                f"{file['l2_misses'] / 1e3:.1f}k",
                "" if file["host_ms"] is None else f"{file['host_ms']:.2f}",
            ]
            table.append([row["row"], kind, *figures, typed(row)])
    return table


WHOLE_TEST = 10_000
"""Test images of CIFAR-10: accuracy on a few hundred needs the words that stand beside it in docs/results.md."""


def short_int8(rows: Rows) -> list[list[str]]:
    """The README's table of trained networks that answered all test images: int8 alone, and low rank with it, against
    their .pte in float32."""
    table = [["network and limit", "file", "smaller", "fewer instructions", "top-1, %"]]
    for row in rows:
        files = {file["kind"]: file for file in row["files"] if file["format"] == "pte"}
        before = files["float32"]
        for kind, title in (("int8", "int8"), ("int8, tuned", "int8, tuned in it"), ("both", "low rank and int8"),
                            ("float16", "float16")):  # fmt: skip
            if kind not in files or (files[kind]["accuracy"] or {"images": 0})["images"] < WHOLE_TEST:
                continue
            after = files[kind]
            fewer = [f"{before[key] / after[key]:.1f}x" for key in ("bytes", "instructions")]
            top1 = [f"{file['accuracy']['top1']:.2f}" for file in (before, after)]
            table.append([row["row"], title, *fewer, " -> ".join(top1)])
    return table


def paper(rows: Rows) -> list[list[str]]:
    """AlexNet by the paper's ranks and by ours, counted."""
    return paper_table(study_lines(rows))


TABLES: dict[str, tuple[str, str, Callable[[Rows], list[list[str]]]]] = {
    "short": ("README.md", "study.jsonl", short),
    "short_int8": ("README.md", "int8.jsonl", short_int8),
    "speed": ("docs/results.md", "speed.jsonl", speed),
    "real_images": ("docs/results.md", "study.jsonl", real_images),
    "networks": ("docs/results.md", "networks.jsonl", networks),
    "int8": ("docs/results.md", "int8.jsonl", int8),
    "tpm": ("docs/results.md", "tpm_vs_tensorly.jsonl", power_method),
    "study": ("docs/results.md", "study.jsonl", study),
    "sharing": ("docs/results.md", "sharing.jsonl", sharing),
    "outputs": ("docs/plan.md", "output_error.jsonl", outputs),
    "instructions": ("docs/plan.md", "instructions_predicted.jsonl", instructions),
    "forms": ("docs/compress.md", "weight_error.jsonl", forms),
    "sharing_factor": ("docs/sharing.md", "sharing.jsonl", sharing_factor),
    "simulated": ("docs/measure.md", "simulated.jsonl", simulated),
    "paper": ("docs/study.md", "study.jsonl", paper),
}
PAGES = sorted({page for page, _, _ in TABLES.values()})


def filled(page: str) -> str:
    """The text of a page with every table of its own written anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, (place, file, build) in TABLES.items():
        if place != page:
            continue
        table = _table(build, file)
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, rest = text.split(start)
        text = f"{before}{start}{table}\n{end}{rest.split(end, 1)[1]}"
    return text


def _lines(file: str) -> Rows:
    return [json.loads(line) for line in (HERE / file).read_text(encoding="utf-8").splitlines()]


def _table(build: Callable[[Rows], list[list[str]]], file: str) -> str:
    if not (HERE / file).exists():
        return "Not measured yet."
    head, *body = build(_lines(file))
    if not body:
        return "Not measured yet."
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(filled(page), encoding="utf-8")
