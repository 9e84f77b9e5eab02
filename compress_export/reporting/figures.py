"""Figures as text, and the tables that the pages and the terminal share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.measurement import Device, Measurement, NotMeasured, Simulated, process_said
from bench.run_files import COMPRESSED, ORIGINAL, FileAccuracy
from bench.statistics import Ratio, summarize
from compress_export.reporting.model import Epoch, FileRow, Pair, ParetoPoint, Report, StoredFile, comparable
from exporters.artifact import Parity
from exporters.formats import FORMATS

NOT_MEASURED = "not measured"
NOT_WRITTEN = "not written"


# ---- figures -----------------------------------------------------------------------------------------------------


def count(value: float) -> str:
    """61,100,840 -> "61.10M"; small counts stay as they are."""
    if value >= 1e6:
        return f"{value / 1e6:.2f}M"
    return f"{value / 1e3:.1f}k" if value >= 1e4 else f"{value:,.0f}"


def count_of(value: float, total: float) -> str:
    """A count with its fraction of the total: "16.78M (27.5 %)"."""
    return f"{count(value)} ({100 * value / total:.1f} %)" if total else count(value)


def size(value: float) -> str:
    """Bytes in decimal units, as file managers and app stores print them."""
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def megabytes(kb: float | None) -> str:
    """A figure for a column of MB."""
    return NOT_MEASURED if kb is None else f"{kb * 1024 / 1e6:.1f}"


def memory_size(kb: float | None) -> str:
    return NOT_MEASURED if kb is None else f"{megabytes(kb)} MB"


def percent(value: float) -> str:
    return f"{value:.2f} %"


def smaller(pair: Pair, words: tuple[str, str] = ("smaller", "larger")) -> str:
    """The ratio as a factor above 1: "4.00x smaller", "1.25x larger"."""
    return f"{pair.smaller:.2f}x {words[0]}" if pair.smaller >= 1 else f"{1 / pair.smaller:.2f}x {words[1]}"


def fewer(pair: Pair) -> str:
    return smaller(pair, ("fewer", "more"))


def faster(ratio: Ratio | None) -> str:
    """A time ratio as a speed-up, with its 95 % interval where there is one."""
    if ratio is None:
        return NOT_MEASURED
    text = f"{1 / ratio.value:.2f}x faster" if ratio.value <= 1 else f"{ratio.value:.2f}x slower"
    if ratio.low is None or ratio.high is None:
        return text
    bounds = (1 / ratio.high, 1 / ratio.low) if ratio.value <= 1 else (ratio.low, ratio.high)
    return f"{text} ({bounds[0]:.2f} to {bounds[1]:.2f})"


def milliseconds(file: FileRow) -> str:
    if file.measured is not None and file.measured.invalid:
        return "invalid"
    if file.statistics is not None:
        return f"{file.statistics.p50:.2f} ms" if file.statistics.p50 >= 1 else f"{file.statistics.p50:.3g} ms"
    return NOT_MEASURED if file.row is None or isinstance(file.row, NotMeasured) else ""


def device_text(device: Device) -> str:
    """The device with its kind, which is always named, because figures of two kinds are never compared."""
    serial = f", {device.serial}" if device.serial else ""
    return f"{device.name} ({device.kind}, {device.cpu}{serial}{process_said(device.process)})"


def parity(file: FileRow) -> str:
    """The file's outputs against those of the PyTorch model, or of the quantized program where that is what it was made
    from; the error is relative to the standard deviation of the logits."""
    found = file.artifact.parity
    if found is None:
        return "not checked"
    name, error = found.error(file.artifact.dtype)
    if not found.executed or error is None:
        return found.note
    alike = agreement(found) + (f" ({found.interpreter})" if found.interpreter else "")
    return f"{name} {error:.1e}{' to its int8 program' if file.artifact.dtype == 'int8' else ''}; {alike}"


def agreement(found: Parity) -> str:
    """The images that are given the same class, or the pixels of a class map; else how many outputs were compared."""
    said = []
    if found.top1_agreement is not None:
        said.append(f"same class {round(found.top1_agreement * found.images)} of {found.images}")
    if found.equal_pixels is not None:
        said.append(f"same class for {100 * found.equal_pixels:.2f} % of the pixels")
    outputs = f"worst of {len(found.outputs)} outputs" if len(found.outputs) > 1 else f"cosine {found.cosine or 0:.6f}"
    return ", ".join(said) or f"{outputs}, on {found.images} images"


def counted_change(first: Simulated, last: Simulated) -> str:
    """The ratio of two instruction counts; not of counts made by two emulators or runtimes."""
    if not comparable(first, last):
        return "not comparable: counted with different programs"
    return fewer(Pair(first.run.instructions, last.run.instructions))


def profiled(unit: str, value: float) -> str:
    """An amount of a profile in a cell of the layer table."""
    return count(value) if unit == "instructions" else f"{value:.3g}"


# ---- tables ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Head and rows as text; every cell may hold text from outside, which renderers escape. False without rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def numeric(self) -> list[bool]:
        """For each column whether it holds figures, which are aligned to the right."""
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * len(self.head)
        return [all(cell[:1].isdigit() for cell in column if cell) for column in columns]


def totals(report: Report, number: Callable[[float], str]) -> Table:
    """Parameters, MACs, accuracy and quantized weights, original beside compressed; counts as `number` writes them."""
    rows = [
        (name, number(pair.original), number(pair.compressed), smaller(pair))
        for name, pair in (("parameters", report.parameters), ("MACs", report.macs))
    ]
    if report.predicted_instructions is not None:
        pair = report.predicted_instructions
        rows.append(("instructions, predicted", number(pair.original), number(pair.compressed), fewer(pair)))
    if report.paper_parameters is not None:
        pair = Pair(report.parameters.original, report.paper_parameters)
        name = "parameters, as the papers count (a bias in every factor)"
        rows.append((name, number(pair.original), number(pair.compressed), smaller(pair)))
    change, metrics = report.accuracy, report.metrics
    if metrics is not None:
        first, last = metrics.of(ORIGINAL) or 0.0, metrics.of(COMPRESSED)
        points = "" if last is None else f"{last - first:+.4g}{' points' if metrics.unit else ''}"
        better = "" if metrics.higher_is_better else ", lower is better"
        cells = metrics.written(ORIGINAL), metrics.written(COMPRESSED) or NOT_MEASURED
        rows.append((metrics.metric, *cells, f"{points} on {metrics.images} test images{better}"))
        if metrics.of("untuned") is not None:
            rows.append((f"{metrics.metric}, before fine-tuning", "", metrics.written("untuned"), ""))
        for name in metrics.networks[ORIGINAL]:
            if name != metrics.metric and COMPRESSED in metrics.networks:
                before, after = (metrics.networks[each][name] for each in (ORIGINAL, COMPRESSED))
                rows.append((name, f"{before:.4g}", f"{after:.4g}", f"{after - before:+.4g}"))
    if change is None and metrics is None:
        rows.append((report.metric, NOT_MEASURED, NOT_MEASURED, ""))
    elif change is None:
        pass
    else:
        changed = f"{change.changed} of {change.images} changed: {change.gained} gained, {change.lost} lost"
        rows.append(("top-1", percent(change.top1.original), percent(change.top1.compressed), changed))
        if change.top5 is not None:
            rows.append(("top-5", percent(change.top5.original), percent(change.top5.compressed), ""))
        if change.untuned_top1 is not None:
            rows.append(("top-1, before fine-tuning", "", percent(change.untuned_top1), ""))
    if report.shared is not None:
        shared, layers = report.shared, report.shared.shared
        dense = sum(layer.dense_bits or 0 for layer in layers) / 8
        packed = sum((layer.index_bits or 0) + (layer.codebook_bits or 0) for layer in layers) / 8
        for name, pair in (
            ("packed weights", Pair(shared.original_bytes, shared.packed_bytes)),
            (f"of them {len(layers)} shared", Pair(dense, packed)),
        ):
            ratio = f"{pair.smaller:.2f}x smaller"
            rows.append((name, size(int(pair.original)), size(int(pair.compressed)), ratio))
        if shared.unshared_top1 is not None:
            rows.append(("top-1, before weight sharing", "", percent(shared.unshared_top1), ""))
    return Table(("", "original", "compressed", "change"), rows)


def format_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """Size, parity, latency, memory and instruction counts of each format, original beside compressed."""
    rows = []
    for row in report.formats:
        name, first, last = f".{row.title}", row.original, row.compressed
        peaks = smaller(Pair(first.memory_kb, last.memory_kb)) if first.memory_kb and last.memory_kb else ""
        sizes, times, whole = smaller(row.bytes), faster(row.ratio), row.before.artifact
        if row.base is not None:  # the network as it was stands beside it too
            sizes += f"; {smaller(Pair(whole.bytes, last.artifact.bytes))} than {whole.path.name}"
            times += "" if row.base_ratio is None else f"; {faster(row.base_ratio)} than {whole.path.name}"
        # of a file that was not executed the first clause of the reason, of which the page has all
        said = parity(last).split(",")[0] if last.artifact.verdict == "not executed" else parity(last)
        rows += [
            (f"{name} size", size(row.bytes.original), size(row.bytes.compressed), sizes),
            (f"{name} parity", first.verdict, last.verdict, said),
        ]
        if first.accuracy is not None and last.accuracy is not None:
            cells = percent(first.accuracy.top1), percent(last.accuracy.top1), flipped(last.accuracy)
            rows.append((f"{name} top-1", *cells))
        rows += [
            (f"{name} latency, p50", milliseconds(first), milliseconds(last), times),
            (f"{name} peak memory", memory_size(first.memory_kb), memory_size(last.memory_kb), peaks),
        ]
        before = {one.device.name: one for one, _ in row.counts_against(row.before)}
        for one, other in row.counted:
            counts, change = (count(one.run.instructions), count(other.run.instructions)), counted_change(one, other)
            if row.base is not None and one.device.name in before:
                change += f"; {counted_change(before[one.device.name], other)} than {whole.path.name}"
            rows.append((f"{name} instructions, {one.device.cpu}", *counts, change))
    rows += [(f".{name}", NOT_WRITTEN, NOT_WRITTEN, reason) for name, reason in report.unwritten.items()]
    return rows


def flipped(accuracy: FileAccuracy) -> str:
    """The predictions that differ from the original network's: "12 of 1,000 flipped"."""
    return f"{accuracy.flipped:,} of {accuracy.images:,} flipped"


def files_table(report: Report) -> Table:
    head = (
        "file", "format", "bytes", "size", "type", "parity", "against its model", "cosine", "top-1", "flipped",
        "p50", "sha256",
    )  # fmt: skip
    rows = []
    for row in report.formats:
        for file in row.files:
            artifact = file.artifact
            cosine = artifact.parity.cosine if artifact.parity is not None and artifact.parity.executed else None
            rows.append(
                (
                    file.name,
                    FORMATS[row.format].title,
                    f"{artifact.bytes:,}",
                    smaller(Pair(row.before.artifact.bytes, artifact.bytes)) if file is not row.before else "",
                    artifact.dtype,
                    file.verdict,
                    parity(file),
                    "" if cosine is None else f"{cosine:.6f}",
                    NOT_MEASURED if file.accuracy is None else percent(file.accuracy.top1),
                    "" if file.accuracy is None else flipped(file.accuracy).removesuffix(" flipped"),
                    milliseconds(file),
                    artifact.sha256[:12],
                )
            )
    for name, reason in report.unwritten.items():
        rows.append((f".{name}", FORMATS[name].title, "", "", "", NOT_WRITTEN, reason, "", "", "", "", ""))
    return Table(head, rows)


def types_table(report: Report) -> Table:
    """The number type of each layer in every network that has another than float32, and how far its outputs are from
    the float32 network's."""
    rows = [
        (
            name,
            layer.layer,
            layer.dtype,
            "" if layer.signal_to_noise is None else f"{layer.signal_to_noise:.1f}",
            layer.reason,
        )
        for name, entry in report.quantization.items()
        for layer in entry.layers
    ]
    return Table(("network", "layer", "type", "signal-to-noise ratio, dB", "why"), rows)


def latency_table(report: Report) -> Table:
    """ms of every file: its percentiles, and the compressed file's time against the original's."""
    head = ("file", "load", "first", "min", "p10", "p50", "p90", "p99", "mean", "sd", "runs", "peak memory", "time")
    rows = []
    for row in report.formats:
        for file in row.files:
            found = file.statistics
            if file.measured is None:
                rows.append((file.name, *[NOT_MEASURED] * 2, *[""] * 10))
            elif found is None:
                rows.append((f"{file.name} (invalid)", *[""] * 10, memory_size(file.memory_kb), ""))
            else:
                times = (found.first, found.min, found.p10, found.p50, found.p90, found.p99, found.mean, found.sd)
                cells = ["" if ms is None else f"{ms:.2f}" for ms in times]
                ratio = faster(row.gain) if file is row.compressed else ""
                load = f"{file.measured.load_ms:.1f}"
                rows.append((file.name, load, *cells, str(found.runs), memory_size(file.memory_kb), ratio))
    return Table(head, rows)


def memory_table(report: Report) -> Table:
    """Resident MB of each file's process by phase, its runtime included, and the model's own peak."""
    rows = []
    for file in report.files:
        if file.measured is not None:
            found = file.measured.memory
            phases = found.start, found.loaded, found.first, found.end
            rows.append((file.name, *(megabytes(phase.resident) for phase in phases), memory_size(file.memory_kb)))
    return Table(("file", "start", "loaded", "first run", "end", "the model's own peak"), rows)


PROCESSES_TITLE = "The same phone, inside an app and outside"
PROCESSES_NOTE = "Each process was measured in a session of its own: trust no few percent between them."


def shell_ratio(row: Measurement, rows: Sequence[Measurement]) -> float | None:
    """The row's median over that of the same file in the shell; None where the file has no row of the shell."""
    same = (each for each in rows if (each.format, each.network) == (row.format, row.network))
    shell = next((each for each in same if each.device.process == "shell"), None)
    return None if shell is None else summarize(row).p50 / summarize(shell).p50


def processes_table(report: Report) -> Table:
    rows = []
    for row in report.processes:
        found, ratio = summarize(row), shell_ratio(row, report.processes)
        compared = NOT_MEASURED if ratio is None else f"{ratio:.2f}x"
        times = f"{found.p50:.2f}", compared, f"{found.p90:.2f}", str(found.runs)
        rows.append((f"{row.network}.{row.format}", row.device.process, *times, megabytes(row.memory.model_peak)))
    return Table(("file", "process", "median ms", "of the shell's", "p90 ms", "runs", "peak memory, MB"), rows)


COUNTED_NOTE = (
    "Counted on a simulated CPU: instructions of one run. `to and from memory` is what passes the second "
    "level of the core's cache model. `peak allocated` is what loading and running the file adds to what the program "
    "had asked for, touched or not. These are no times: a core runs some instructions many times faster than others."
)


def instructions_table(report: Report, core: str) -> Table:
    """A row for each file that was counted on `core`."""
    head = (
        "file", "instructions", "change", "vector", "load", "store", "branch", "other", "to load the file",
        "bytes read", "bytes written", "to and from memory", "peak allocated", "outputs against this machine's",
    )  # fmt: skip
    rows = []
    for form in report.formats:
        first = form.before.counted_on(core)
        for file in form.files:
            row = file.counted_on(core)
            if row is None:
                continue
            run, same = row.run, round((row.parity.top1_agreement or 0) * row.parity.images)
            classes = (run.vector, run.load, run.store, run.branch, run.other)
            rows.append(
                (
                    file.name,
                    f"{run.instructions:,}",
                    counted_change(first, row) if first is not None and file is not form.before else "",
                    *(f"{100 * part / run.instructions:.1f} %" for part in classes),
                    count(row.load.instructions),
                    size(run.load_bytes),
                    size(run.store_bytes),
                    "not recorded" if row.traffic is None else size(row.traffic.memory_bytes),
                    size(row.memory.model_peak * 1024),
                    f"cosine {row.parity.cosine:.7f}; same class {same} of {row.parity.images}",
                )
            )
    return Table(head, rows)


def layers_table(report: Report) -> Table:
    rows = [
        (
            layer.name,
            layer.weight,
            layer.method,
            layer.rank,
            count_of(layer.parameters.original, report.parameters.original),
            count(layer.parameters.compressed),
            count_of(layer.macs.original, report.macs.original),
            count(layer.macs.compressed),
            "" if layer.error is None else f"{layer.error:.3f}",
            "" if layer.stability is None else f"{layer.stability:.3f}",
            layer.reason,
        )
        for layer in report.layers
    ]
    costs = "parameters", "compressed", "MACs", "compressed"
    return Table(("layer", "weight", "method", "rank", *costs, "weight error", "stability", "why"), rows)


def epochs_table(epochs: Iterable[Epoch], metric: str) -> Table:
    rows = [
        (row.layers, str(row.epoch), "" if row.loss is None else f"{row.loss:.4f}", percent(row.top1)) for row in epochs
    ]
    return Table(("factorized", "epoch", "training loss", f"validation {metric}"), rows)


def pareto_table(points: Sequence[ParetoPoint]) -> Table:
    rows = [
        (
            "chosen" if point.chosen else str(number),
            count(point.parameters),
            count(point.macs),
            NOT_MEASURED if point.ms is None else f"{point.ms:.2f}",
            f"{point.loss:.4g}",
        )
        for number, point in enumerate(points, 1)
    ]
    return Table(("plan", "parameters", "MACs", "predicted ms", "predicted loss"), rows)


@dataclass(frozen=True)
class FileCost:
    """A file that has classified the test images: its top-1 in percent, median ms and instructions, where known."""

    name: str
    format: str
    type: str
    original: bool
    top1: float
    ms: float | None
    instructions: int | None


def file_costs(report: Report) -> tuple[FileCost, ...]:
    """Accuracy and costs of each file; instructions on the first simulated core of the report."""
    found = []
    for row in report.formats:
        for file in row.files:
            counts = next((file.counted_on(core) for core in report.cores[:1]), None)
            if file.accuracy is not None:
                ms = None if file.statistics is None else file.statistics.p50
                instructions = None if counts is None else counts.run.instructions
                original = file is row.original
                found.append(FileCost(file.name, row.format, row.type, original, file.accuracy.top1, ms, instructions))
    return tuple(found)


def costs_table(report: Report) -> Table:
    rows = [
        (
            cost.name,
            percent(cost.top1),
            NOT_MEASURED if cost.ms is None else f"{cost.ms:.3g}",
            NOT_MEASURED if cost.instructions is None else f"{cost.instructions:,}",
        )
        for cost in file_costs(report)
    ]
    return Table(("file", "top-1", "p50 ms", "instructions"), rows)


def settings_table(settings: Mapping[str, Mapping[str, object]]) -> Table:
    rows = [
        (f"{section}: {name}", setting_text(value))
        for section, values in settings.items()
        for name, value in values.items()
    ]
    return Table(("setting", "value"), rows)


def setting_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={part}" for key, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def stored_table(files: Iterable[StoredFile]) -> Table:
    return Table(("file", "bytes", "sha256"), [(file.name, f"{file.bytes:,}", file.sha256) for file in files])
