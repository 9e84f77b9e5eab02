"""Loads a network with its weights, its data in three parts, and the survey of its layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader

from bench.run_files import RunFile
from compress_export.console import Reporter
from compress_export.data.datasets import (
    Data,
    Source,
    alike_mirrored,
    check_order,
    device_of,
    few_images,
    find_data,
    load_data,
)
from compress_export.data.images import View, photograph_crops
from compress_export.errors import InputError
from compress_export.models.networks import Network, NetworkRequest, load_network, settle
from compress_export.models.resize import Resize, chosen, whole
from compress_export.models.tasks import objective_of
from compress_export.pipeline.validate import changes_of, regularization_of
from compress_export.run_directory import RunDirectory
from compress_export.settings import PlanSettings, SourceSettings, TuneSettings, training_epochs
from compressor.calibration import Moments, carry_over, collect
from compressor.decompositions.methods import Decompositions
from compressor.distributed import SINGLE_PROCESS, ProcessGroup, SingleProcess
from compressor.equivalence import DIFFERS, check_deterministic
from compressor.outputs import CLASSIFICATION, Objective
from compressor.plan import Plan
from compressor.surgery import load_weights, save_weights, skeleton
from compressor.survey import Survey, survey
from compressor.training.loop import EpochRow, Loader, TrainOptions, Watch, fit
from compressor.training.schedules import Step

REAL_IMAGES = 32
"""Real images on which layers are surveyed and files are compared with the module."""

LEAST_ELSEWHERE = 1
"""Per cent of the MACs outside the layers from which on a person is told."""

FROM_SCRATCH = TrainOptions(optimizer="adamw", rate=5e-4, rate_schedule="one-cycle", weight_decay=1e-2)


@dataclass(frozen=True)
class RunContext:
    """Everything that a stage works with: the run's files, the network, its data, the processes that probe and train.

    `images` are images of the validation split as the network takes them; without data, crops of photographs.
    `decompositions` made for the plan serve the compressed network as well.
    """

    run: RunDirectory
    reporter: Reporter
    network: Network
    data: Data | None
    survey: Survey
    images: Tensor
    seed: int = 0
    group: ProcessGroup = SINGLE_PROCESS
    decompositions: Decompositions = field(default_factory=dict)
    objective: Objective = CLASSIFICATION

    @property
    def trainable(self) -> bool:
        """True where accuracy can be measured: there is data, and the weights are trained."""
        return self.data is not None and self.network.origin != "untrained"

    @property
    def fits_outputs(self) -> bool:
        """True where factors are fitted to the outputs of layers on calibration images, not to weights alone."""
        return self.trainable and self.plan_settings.fit == "outputs"

    @property
    def plan_settings(self) -> PlanSettings:
        """The settings of the run's plan, which has begun."""
        settings = self.run.stored().plan
        assert settings is not None
        return settings

    @cached_property
    def moments(self) -> Mapping[str, Moments] | None:
        """Moments of the inputs of every layer that may be factored, from one pass over the calibration images."""
        if not self.fits_outputs:
            return None
        assert self.data is not None  # it is trainable
        batches = self.data.calibration
        layers = [layer.name for layer in self.survey.layers if layer.must_keep is None]
        with self.reporter.stage("Reading what the layers read on calibration images") as advance:
            return collect(
                self.network.module,
                batches,
                layers,
                seed=self.seed,
                progress=lambda images: advance(images, len(batches.dataset), ""),  # type: ignore[arg-type]  # sized
            )

    def load_module(self, plan: Plan, name: str) -> nn.Module:
        """The network with the plan's factors and the weights of the run's file `name`."""
        module = copy.deepcopy(self.network.module)
        skeleton(module, plan.layers)
        load_weights(module, self.run / name)
        return module.eval()

    def settle_statistics(self, module: nn.Module, before: nn.Module) -> None:
        """Moves BatchNorm's statistics, those of the network `before`, as its factorization moved outputs of layers."""
        if self.trainable and self.data is not None:
            carry_over(module, before, self.data.calibration)

    def keeping(self, layers: Collection[str]) -> RunContext:
        """The same with these layers kept, because the network does not run their factors as it runs them."""
        rows = (replace(row, must_keep=DIFFERS) if row.name in layers else row for row in self.survey.layers)
        return replace(self, survey=replace(self.survey, layers=tuple(rows)))

    def send(self, job: str, *arguments: Any) -> None:
        """Tells the other processes of the group to do a job; the caller then does it too."""
        self.group.broadcast((job, self.run.stored(), arguments))


def load(
    run: RunDirectory,
    settings: SourceSettings,
    reporter: Reporter,
    stale: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
) -> RunContext:
    """The context that `settings` describe, rebuilt from the run's files where they exist and are not stale.

    Stale results are removed once the network and its data are loaded, so that a slip in the command costs nothing.
    """
    source = None if settings.data is None else find_data(settings.data, Path(settings.data_root))
    if run.has(RunFile.NETWORK) and not stale:  # no network access, no training
        record: dict[str, Any] = run.read_json(RunFile.NETWORK)
        request = NetworkRequest(
            settings.network,
            "none",
            tuple(record["input"]),
            int(record["outputs"]),
            origin=record["origin"],
            task=record.get("task", "classify"),
        )
        network = _normalized(load_network(request), settings, source)
        network = replace(network, resize=recorded_resize(record))
        load_weights(network.module, run / RunFile.ORIGINAL_WEIGHTS)
        data, images = _data(source, network, settings, group)
        if data is not None and "augment" in record:
            data = data.with_changes(tuple(record["augment"]))
        found = survey(network.module, images)
        return RunContext(
            run,
            reporter,
            network,
            data,
            found,
            images,
            settings.seed,
            group,
            objective=_objective(network, data),
        )
    epochs = training_epochs(settings)
    fresh_head = epochs is not None or settings.weights == "none"
    size = None if epochs is None or source is None or source.size is None else (3, source.size, source.size)
    request = NetworkRequest(
        name=settings.network,
        weights=settings.weights,
        input=settings.input or size,
        outputs=len(source.classes) or None if source is not None and fresh_head else None,
        train=epochs is not None,
        task=settings.task,
    )
    torch.manual_seed(settings.seed)
    notes: list[str] = []
    with reporter.stage(f"Loading {settings.network}"):
        network = _normalized(load_network(request), settings, source)
        data, images = _data(source, network, settings, group)
        check_deterministic(network.module, images)
        notes += [*network.notes, *([] if source is None else source.notes)]
        if source is not None and data is not None:
            if network.task == "classify":
                notes.append(few_images(len(data.validation.dataset)))  # type: ignore[arg-type]  # each of ours has a length
            elif not data.labelled:
                notes.append(
                    f"{source.name} holds no labels that source.task={network.task} reads: planning and tuning go by "
                    "pictures alone, and hold the outputs against the original's"
                )
            judged = epochs is None and network.origin != "untrained" and network.task == "classify"
            if judged and len(source.classes) == network.outputs:
                notes.append(check_order(network.module, data.validation, source.classes, source.name))
    notes = list(filter(None, notes))
    for note in notes:
        reporter.say(f"note: {note}")
    run.begin("source", settings, stale)
    if epochs is not None and data is not None:
        objective = _objective(network, data)
        if objective.loss is None:
            raise InputError(
                f"--train {epochs} learns from labels, and {data.name} has none that source.task={network.task} trains "
                "by; pass trained weights"
            )
        options = replace(FROM_SCRATCH, seed=settings.seed, regularizer=regularization_of(settings))
        title = f"Training {network.name} on {data.name}"
        metric = objective.metric
        text = f"epoch {{0.epoch}} of {{0.epochs}}, {metric} on the validation split {{0.top1:.1f}} %".format
        with logged_training(run, title, RunFile.TRAINING, text) as watch:
            fit(
                network.module,
                data.train if (changes := changes_of(settings)) is None else data.changed(changes),
                data.validation,
                (Step((), epochs),),
                options,
                checkpoint=run / RunFile.TRAINING_CHECKPOINT,
                watch=watch,
                group=SingleProcess(group.device),
                objective=objective,
            )
    if network.origin == "untrained":
        settle(network.module, images)
    found = survey(network.module, images)
    later = [*network_notes(network.module, found, data is not None)]
    folder = source is not None and source.folder is not None and network.task == "classify"
    if data is not None and folder and network.origin != "untrained":
        alike, note = alike_mirrored(network.module, data.validation)
        later.append(note)
        if alike:
            data = data.with_changes((*data.changes, "flip"))
    for note in later:
        reporter.say(f"note: {note}")
    notes += later
    save_weights(network.module, run / RunFile.ORIGINAL_WEIGHTS)
    run.write_json(RunFile.SURVEY, asdict(found))
    facts = {name: getattr(network, name) for name in ("name", "input", "outputs", "origin", "mean", "std")}
    shown = "" if source is None else source.shown(View.of(network))
    resize = None if network.resize is None else asdict(network.resize)
    augment = () if data is None else data.changes
    objective = _objective(network, data)
    facts |= {"task": network.task, "metric": objective.metric, "layout": [asdict(each) for each in network.layout]}
    run.write_json(RunFile.NETWORK, {**facts, "resize": resize, "shown": shown, "augment": augment, "notes": notes})
    (run / RunFile.TRAINING_CHECKPOINT).unlink(missing_ok=True)
    return RunContext(
        run,
        reporter,
        network,
        data,
        found,
        images,
        settings.seed,
        group,
        objective=objective,
    )


def _objective(network: Network, data: Data | None) -> Objective:
    """The purpose of the network's outputs, with labels where the data have some."""
    return objective_of(network.task, network.layout, data is not None and data.labelled, network.module)


def network_notes(module: nn.Module, found: Survey, data: bool) -> Iterator[str]:
    """Notes on work that no plan makes less, on work that nobody counts and, where there is data, on frozen weights."""
    elsewhere = 100 * found.macs_elsewhere / max(1, found.macs)
    if elsewhere >= LEAST_ELSEWHERE:
        yield (
            f"{elsewhere:.0f} % of the network's {found.macs / 1e6:,.1f}M MACs lie outside Conv2d and Linear layers "
            "(transposed, 1-d and 3-d convolutions, attention, weights read directly): no plan makes these fewer"
        )
    if found.uncounted:
        yield f"MACs are without those of {', '.join(found.uncounted)}, which torch's flop counter does not count"
    parameters = dict(module.named_parameters())
    frozen = [name for name, value in parameters.items() if not value.requires_grad]
    if frozen and data:
        yield (
            f"{len(frozen)} of {len(parameters)} weights are frozen (requires_grad=False), {frozen[0]} first: where "
            "such a layer is factored its factors are trained, all others stay as they are"
        )


def _normalized(network: Network, settings: SourceSettings, source: Source | None) -> Network:
    """The network with the mean, the deviation and the resizing asked for. InputError unless there is a mean and a
    deviation for each channel, and for a resizing that cannot be."""
    mean, std = settings.mean or network.mean, settings.std or network.std
    if not len(mean) == len(std) == network.input[0]:
        raise InputError(
            f"{network.name} takes {network.input[0]} channel(s), but is normalized by {len(mean)} mean(s) and "
            f"{len(std)} deviation(s); set source.mean and source.std to a number for each channel"
        )
    if min(std) <= 0:
        raise InputError(f"source.std {min(std)}: a deviation is above 0")
    if source is None or source.folder is not None:
        resize = chosen(network.resize or whole(network.input), network.input, settings)
    else:  # a set in memory, whose images are resized whole
        resize = whole(network.input)
        asked = next((name for name in ("resize", "crop_pct", "interpolation") if getattr(settings, name)), None)
        if asked is not None:
            raise InputError(
                f"source.{asked} is for folders of pictures, and {source.shown(View.of(network))}; leave it out"
            )
    return replace(network, mean=mean, std=std, resize=resize)


def recorded_resize(record: dict[str, Any]) -> Resize:
    """The resizing that the run was made with. Before it was written down, both sides were enlarged by an eighth."""
    if record.get("resize") is None:
        high, wide = (round(side * 256 / 224) for side in record["input"][1:])
        return Resize((high, wide), keep_ratio=False)
    return msgspec.convert(record["resize"], Resize)


def _data(
    source: Source | None, network: Network, settings: SourceSettings, group: ProcessGroup
) -> tuple[Data | None, Tensor]:
    """The data as the network takes it, and the real images on which layers are surveyed and files compared."""
    if source is None:
        return None, photograph_crops(View.of(network), REAL_IMAGES)
    view = View.of(network, group.device)
    data = load_data(source, view, settings.batch, network.outputs, settings.seed, settings.images, network.task)
    return data, data.images(REAL_IMAGES)


def training_images(context: RunContext, settings: TuneSettings) -> Loader:
    """The training images, and with them those of the folder without labels."""
    assert context.data is not None  # it is trainable
    changes = changes_of(settings)
    data = context.data if changes is None else context.data.with_changes(changes)
    train = data.train
    if settings.unlabelled is None:
        return train
    from compress_export.data.picture_files import unlabelled_images

    if context.objective.score is not None and context.objective.loss is not None:
        raise InputError(
            f"fine_tune.unlabelled={settings.unlabelled}: pictures without masks stand beside pictures with some in no "
            "batch; leave it out, or take the masks away and tune by pictures alone"
        )
    device = device_of(train.dataset)
    more = unlabelled_images(Path(settings.unlabelled), View.of(context.network, device), data.changes)
    return DataLoader(
        ConcatDataset([train.dataset, more]),
        train.batch_size,
        shuffle=True,
        num_workers=max(train.num_workers, 2) if device.type == "cpu" else 0,  # a GPU's memory is this process's
        drop_last=True,
        generator=torch.Generator(),
    )


@contextmanager
def logged_training(run: RunDirectory, title: str, file: str, now: Callable[[EpochRow], str]) -> Iterator[Watch]:
    """Progress of a training under `title`, with the row of every epoch in the run's `file` and what `now` says of it.

    The file begins anew: a training that goes on from its checkpoint reports the epochs before as well.
    """
    run.write_text(file, "")
    with Reporter().stage(title) as advance:
        text = ""

        def note(row: EpochRow) -> None:
            nonlocal text
            text = now(row)
            run.append_line(file, asdict(row))

        yield Watch(note, lambda done, total: advance(done, total, text))


def fit_in_place(
    context: RunContext,
    module: nn.Module,
    epochs: int,
    options: TrainOptions,
    title: str,
    files: tuple[RunFile, RunFile],
    teacher: nn.Module | None = None,
    train: Loader | None = None,
) -> None:
    """Trains a network as it stands, in this process alone, on the training images unless `train` has others: rows and
    checkpoint in the run's two `files`. A checkpoint that is there is gone on from; whoever has stored the result
    removes it."""
    data, (rows, checkpoint) = context.data, files
    assert data is not None  # it is trainable
    text = f"{context.objective.metric} on the validation split {{0.top1:.1f}} %".format
    with logged_training(context.run, title, rows, text) as watch:
        fit(
            module,
            train or data.train,
            data.validation,
            (Step((), epochs),),
            options,
            checkpoint=context.run / checkpoint,
            watch=watch,
            teacher=teacher,
            group=SingleProcess(context.group.device),
            objective=context.objective,
        )


def stored_source(run: RunDirectory) -> SourceSettings:
    """The network and data that the run was made with. InputError where its settings name none."""
    source = run.stored().source
    if source is None:
        raise InputError(f"{run / RunFile.SETTINGS} names no network; make the run again")
    return source
