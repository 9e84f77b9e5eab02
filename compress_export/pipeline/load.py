"""The first stage: a network with weights, its data in three parts, and the survey of its layers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress_export.data.builtin import View, photograph_crops
from compress_export.data.class_order import check_order, few_images
from compress_export.data.datasets import Data, Source, find_data, load_data
from compress_export.errors import InputError
from compress_export.models.networks import Network, Order, load_network, settle
from compress_export.pipeline.validate import regularization_of
from compress_export.progress import Reporter
from compress_export.run_directory import RunDirectory
from compress_export.settings import SourceSettings, training_epochs
from compressor.distributed import ALONE, Alone, Crew
from compressor.surgery import load_weights, save_weights
from compressor.survey import Survey, survey
from compressor.training.loop import EpochRow, TrainOptions, Watch, fit
from compressor.training.schedules import Step

REAL_IMAGES = 32
"""Real images on which layers are surveyed and files are compared with the module."""

FROM_SCRATCH = TrainOptions(optimizer="adamw", rate=5e-4, shape="one-cycle", weight_decay=1e-2)


@dataclass(frozen=True)
class Subject:
    """What a run works on. `images` are held-out images as it takes them; without data, crops of photographs."""

    network: Network
    data: Data | None
    survey: Survey
    images: Tensor

    @property
    def trainable(self) -> bool:
        """Whether accuracy means anything here: there is data, and the weights are trained."""
        return self.data is not None and self.network.origin != "untrained"


def prepare(
    run: RunDirectory, settings: SourceSettings, reporter: Reporter, stale: bool = False, crew: Crew = ALONE
) -> Subject:
    """The subject that `settings` describe, rebuilt from the run's files where they exist and are not stale.

    Stale results are removed once the network and its data are loaded, so that a slip in the command costs nothing.
    """
    source = None if settings.data is None else find_data(settings.data, Path(settings.data_root))
    if run.has("network.json") and not stale:
        return _rebuilt(run, settings, source, crew)
    epochs = training_epochs(settings)
    fresh_head = source is not None and (epochs is not None or settings.weights == "none")
    order = Order(
        name=settings.network,
        weights=settings.weights,
        input=settings.input or (None if epochs is None or source is None else _size(source)),
        outputs=len(source.classes) if source is not None and fresh_head else None,
        train=epochs is not None,
    )
    torch.manual_seed(settings.seed)
    with reporter.stage(f"Loading {settings.network}"):
        network = _normalized(load_network(order), settings)
        data = None if source is None else _data(source, network, settings, crew)
        images = _real_images(network, data)
        notes = [] if source is None or data is None else _look(source, data, network, trained=epochs is None)
    for note in notes:
        reporter.say(f"note: {note}")
    run.begin("source", settings, stale)
    if epochs is not None and data is not None:
        options = replace(FROM_SCRATCH, seed=settings.seed, regularizer=regularization_of(settings))
        _train(run, network, data, Step((), epochs), options, Alone(crew.device))
    if network.origin == "untrained":
        settle(network.module, images)
    found = survey(network.module, images)
    save_weights(network.module, run / "original.safetensors")
    run.write_json("survey.json", asdict(found))
    run.write_json("network.json", {**_record(network), "notes": notes})
    (run / "training.pt").unlink(missing_ok=True)
    return Subject(network, data, found, images)


def _look(source: Source, data: Data, network: Network, trained: bool) -> list[str]:
    """What there is to say of the held-out images, and of a trained network's answers on them. InputError if its
    outputs stand in another order than the classes; those of ImageNet are found by their names."""
    notes = [few_images(len(data.held_out.dataset))]  # type: ignore[arg-type]  # every dataset of ours has a length
    if trained and network.origin != "untrained" and len(source.classes) == network.outputs:
        notes.append(check_order(network.module, data.held_out, source.classes, source.name))
    return list(filter(None, notes))


def _size(source: Source) -> tuple[int, int, int] | None:
    return None if source.size is None else (3, source.size, source.size)


def _rebuilt(run: RunDirectory, settings: SourceSettings, source: Source | None, crew: Crew) -> Subject:
    """The subject from the run's own files: no network access, no training."""
    record: dict[str, Any] = run.read_json("network.json")
    order = Order(settings.network, "none", tuple(record["input"]), int(record["outputs"]), origin=record["origin"])
    network = _normalized(load_network(order), settings)
    load_weights(network.module, run / "original.safetensors")
    data = None if source is None else _data(source, network, settings, crew)
    images = _real_images(network, data)
    return Subject(network, data, survey(network.module, images), images)


def _normalized(network: Network, settings: SourceSettings) -> Network:
    """The network with the mean and deviation asked for. InputError unless there is one for each channel."""
    mean, std = settings.mean or network.mean, settings.std or network.std
    if not len(mean) == len(std) == network.input[0]:
        raise InputError(
            f"{network.name} takes {network.input[0]} channel(s), but is normalized by {len(mean)} mean(s) and "
            f"{len(std)} deviation(s); pass --mean and --std with a number for each channel"
        )
    if min(std) <= 0:
        raise InputError(f"--std {min(std)}: a deviation is above 0")
    return replace(network, mean=mean, std=std)


def _record(network: Network) -> dict[str, Any]:
    return {
        "name": network.name,
        "input": list(network.input),
        "outputs": network.outputs,
        "origin": network.origin,
        "mean": list(network.mean),
        "std": list(network.std),
    }


def _data(source: Source, network: Network, settings: SourceSettings, crew: Crew) -> Data:
    view = View(network.input, network.mean, network.std, crew.device)
    return load_data(source, view, settings.batch, network.outputs, settings.seed, settings.images)


def _real_images(network: Network, data: Data | None) -> Tensor:
    if data is not None:
        return data.images(REAL_IMAGES)
    return photograph_crops(View(network.input, network.mean, network.std), REAL_IMAGES)


def _train(run: RunDirectory, network: Network, data: Data, step: Step, options: TrainOptions, crew: Crew) -> None:
    run.write_text("training.jsonl", "")
    with Reporter().stage(f"Training {network.name} on {data.name}") as advance:
        now = ""

        def note(row: EpochRow) -> None:
            nonlocal now
            now = f"epoch {row.epoch} of {row.epochs}, held-out top-1 {row.top1:.1f} %"
            run.append_line("training.jsonl", asdict(row))

        watch = Watch(note, lambda done, total: advance(done, total, now))
        place = run / "training.pt"
        fit(network.module, data.train, data.held_out, (step,), options, checkpoint=place, watch=watch, crew=crew)
