"""Run directories for the tests of budgets: real .onnx and .pte files, and what a run would have recorded of them."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from bench_files import artifact
from bench_rows import DEVICE, measurement

from bench.measurement import Block, Device, from_line, to_line
from bench.run_files import FileAccuracy
from exporters.artifact import Parity, read_artifacts, write_artifacts

TINY = Path(__file__).with_name("files") / "tiny.pte"
RANK = 4
PHONE = Device("phone", "Pixel 8", "Tensor G3", 9, "Android 14", 7_812_345, "A1", 4096)


def onnx_layers(path, layers, dtype=np.float32):
    """A .onnx with a matrix of that type for each name and shape; nothing runs it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array((100 * chance.random(shape, dtype=np.float32)).astype(dtype), name)
        for name, shape in layers.items()
    ]
    graph = helper.make_graph([], "net", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1,))], weights)
    onnx.save(helper.make_model(graph, ir_version=10), path)


def shapes(rank):
    """fc1 cut to `rank`, fc2 as it was."""
    return {"fc1.0.weight": (rank, 200), "fc1.1.weight": (100, rank), "fc2.weight": (10, 100)}


ORIGINAL_SHAPES = {"fc1.weight": (100, 200), "fc2.weight": (10, 100)}


def survey(layers):
    rows = [
        {
            "name": name.removesuffix(".weight"),
            "weight": shape,
            "cost": {"parameters": int(np.prod(shape)), "macs": int(np.prod(shape)), "traffic": 0},
        }
        for name, shape in layers.items()
    ]
    total = sum(row["cost"]["parameters"] for row in rows)
    return {"layers": rows, "parameters": total, "macs": total, "bytes": 4 * total}


def make_run(path, rank=RANK, with_pte=True, device=DEVICE, ms=5.0, top1=97.5, agreement=1.0, session="s"):
    """A run in which fc1 of 100x200 was cut to `rank`; the original takes 10 ms, the cut network `ms`."""
    files = path / "artifacts"
    files.mkdir(parents=True)
    onnx_layers(files / "original.onnx", ORIGINAL_SHAPES)
    onnx_layers(files / "compressed.onnx", shapes(rank))
    names = ["original.onnx", "compressed.onnx"]
    if with_pte:
        for network in ("original", "compressed"):
            shutil.copy(TINY, files / f"{network}.pte")
        names += ["original.pte", "compressed.pte"]
    parity = Parity(True, 32, 1e-6, 1e-6, 1.0, agreement)
    artifacts = [replace(artifact(files / name), parity=parity) for name in names]
    write_artifacts(path / "artifacts.json", artifacts)
    rows = [
        replace(
            measurement(),
            network=row.network, format=row.format, sha256=row.sha256, bytes=row.bytes, device=device, session=session,
            blocks=turns(row.network, 10.0 if row.network == "original" else ms),
        )
        for row in artifacts
    ]  # fmt: skip
    (path / "measurements.jsonl").write_text("".join(map(to_line, rows)))
    parts = {
        "settings.json": {"version": 1, "source": {}},
        "survey.json": survey(ORIGINAL_SHAPES),
        "compressed.json": survey(shapes(rank)),
        "plan.json": {"layers": [{"name": "fc1"}, {"name": "fc2"}]},
        "accuracy.json": {"original": {"top1": 98.0}, "compressed": {"top1": top1}},
    }
    for name, value in parts.items():
        (path / name).write_text(json.dumps(value))
    return path


def with_int8(path, rank=RANK, top1=96.0, images=200):
    """The run with a further .onnx in int8 of each network, and with the accuracy of every .onnx on test images: 98 %
    of the original's, 97 % of the compressed one and `top1` of the latter in int8."""
    files, accuracy = path / "artifacts", json.loads((path / "accuracy.json").read_text())
    for network, layers in (("original", ORIGINAL_SHAPES), ("compressed", shapes(rank))):
        onnx_layers(files / f"{network}.int8.onnx", layers, np.int8)
    made = [replace(artifact(files / f"{name}.int8.onnx"), dtype="int8") for name in ("original", "compressed")]
    made = [replace(each, parity=Parity(True, 32, 0.1, 0.1, 0.999, 1.0)) for each in made]
    every = [*read_artifacts(path / "artifacts.json"), *made]
    write_artifacts(path / "artifacts.json", every)
    own = {"original": 98.0, "compressed": 97.0, "original.int8": 97.5, "compressed.int8": top1}
    for each in every:
        if each.format == "onnx":
            row = FileAccuracy(own[each.network], 100.0, 3, images, each.sha256, (0,) * images, (True,) * images)
            accuracy[each.path.name] = asdict(row)
    (path / "accuracy.json").write_text(json.dumps(accuracy))
    return path


def measured_in_app(path, process="app", times=1.5, **changes):
    """The run's newest rows of the shell once more, inside a process in which they take `times` as long."""
    rows = [from_line(line) for line in (path / "measurements.jsonl").read_text().splitlines()]
    rows = [
        replace(
            row,
            session=process,
            device=replace(row.device, process=process),
            blocks=tuple(Block(block.turn, tuple(times * ms for ms in block.samples_ms)) for block in row.blocks),
            **changes,
        )
        for row in rows
        if row.device.process == "shell"
    ]
    with (path / "measurements.jsonl").open("a") as file:
        file.write("".join(map(to_line, rows)))
    return path


def disturbed(path, preemptions=200, names=("original", "compressed")):
    """The run's newest rows of these networks, as a busy machine would have measured them: every eighth run takes
    twice as long."""
    rows = [json.loads(line) for line in (path / "measurements.jsonl").read_text().splitlines()]
    for row in rows:
        if row["network"] in names:
            row["preemptions"] = preemptions
            for block in row["blocks"]:
                block["samples_ms"][::8] = [2 * ms for ms in block["samples_ms"][::8]]
    (path / "measurements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def invalid(path, reason="let the phone cool"):
    """The run's rows, their times not to be used for that reason."""
    rows = [json.loads(line) | {"invalid": reason} for line in (path / "measurements.jsonl").read_text().splitlines()]
    (path / "measurements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(network, ms):
    """Eight rounds of A B B A, ten runs to a block."""
    places = (0, 3) if network == "original" else (1, 2)
    return tuple(Block(4 * round + place, (ms,) * 10) for round in range(8) for place in places)


def write_budgets(folder, *tables):
    """A budgets.toml of these [[budget]] tables."""
    (folder / "budgets.toml").write_text("\n".join(f"[[budget]]\n{table.strip()}\n" for table in tables))
    return folder / "budgets.toml"


def ten_of_each(folder, side=1000):
    """Ten runs and ten files of `side` x `side` numbers, under every limit that a budget can have."""
    from safetensors.numpy import save_file

    chance = np.random.default_rng(0)
    for number in range(10):
        make_run(folder / f"runs/net{number}", with_pte=False)
        save_file({"fc.weight": chance.random((side, side), np.float32)}, folder / f"net{number}.safetensors")
    write_budgets(
        folder,
        'run = "runs/*"\ndevice = "host"\nsize = "1 MB"\nshipped = "0.5x"\nparameters = "0.2x"\nmacs = "0.2x"\n'
        'latency = "0.6x"\nmemory = "1 GB"\naccuracy = "90 %"\nagreement = "99 %"\ninstructions = "1G"',
        'files = "*.safetensors"\nsize = ["1 GB", "+1 %"]',
    )
    return folder
