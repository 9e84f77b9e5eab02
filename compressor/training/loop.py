"""One training loop: epochs with layers factorized before some, a checkpoint after each, and an exact way to go on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from compressor.distributed import SINGLE_PROCESS, Batches, ProcessGroup
from compressor.layers import evaluating
from compressor.mcnemar import CHANCE, mcnemar
from compressor.outputs import CLASSIFICATION, Objective
from compressor.plan import LayerPlan
from compressor.surgery import skeleton
from compressor.training.options import TrainOptions, loss_of, make_optimizer, rate_at
from compressor.training.schedules import Step
from compressor.weight_sharing.regularizers import penalty_of

__all__ = ["Accuracy", "EpochRow", "TrainOptions", "TrainingError", "Watch", "accuracy", "fit"]

LARGE, SPACING = 50_000_000, 60.0
"""Bytes of weights from which on a checkpoint, four times as large, is written once in so many seconds at most: an
epoch of AlexNet on 1,200 small images takes ten seconds, and writing its state another three."""

Batch = tuple[Tensor, Tensor]
Loader = DataLoader[Batch]
Factorize = Callable[[nn.Module, tuple[LayerPlan, ...]], None]
"""Puts the factors of some layers in place in a network."""


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 in percent, with the predicted class of every image in the order of the data."""

    top1: float
    top5: float
    predictions: tuple[int, ...]
    correct: tuple[bool, ...]


def accuracy(network: nn.Module, batches: Iterable[Batch], device: torch.device | None = None) -> Accuracy:
    """Accuracy of `network` in evaluation mode on all of `batches`. It runs on `device`, by default where it is, and is
    back there afterwards."""
    home = next(network.parameters()).device
    device = device or home
    network.to(device)
    predictions: list[int] = []
    correct: list[bool] = []
    top5 = 0
    network.eval()
    with torch.no_grad():
        for images, labels in batches:
            logits = network(images.to(device))
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu()
            hits = best == labels[:, None]
            predictions += best[:, 0].tolist()
            correct += hits[:, 0].tolist()
            top5 += int(hits.any(dim=1).sum())
    network.to(home)
    count = max(1, len(correct))
    return Accuracy(100 * sum(correct) / count, 100 * top5 / count, tuple(predictions), tuple(correct))


class TrainingError(RuntimeError):
    """Training that cannot go on: a loss that is no number, a checkpoint of other settings."""


@dataclass(frozen=True)
class EpochRow:
    """One line of tuning.jsonl: the layers factorized, the epoch of their step (0: not yet trained), and the accuracy.

    `top1` is in percent on the validation split of the training data; of a network that is no classifier it is the
    metric of its `Objective`. `kept` says that a fit which ended here would
    return the weights of this epoch, not those of an earlier one.
    """

    step: int
    layers: str
    epoch: int
    epochs: int
    loss: float | None
    top1: float
    kept: bool = True


@dataclass
class _State:
    """Step and epoch that a fit has reached, and what it needs to go on from there.

    `untrained` are the validation images that the network had right before the first epoch of the step.
    """

    step: int = 0
    epoch: int = 0
    rows: list[EpochRow] = field(default_factory=list)
    untrained: tuple[bool, ...] = ()
    best: float = -1.0
    since_best: int = 0
    best_weights: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Watch:
    """Callbacks for progress: every row, and after every batch (done, total) of the whole fit."""

    epoch: Callable[[EpochRow], None] = lambda _row: None
    batch: Callable[[int, int], None] = lambda _done, _total: None


def layout_on(device: torch.device) -> torch.memory_format:
    """Memory format of weights and activations while they are trained there.

    Channels last on a CPU, where a step of a ResNet-20 takes 0.7 of the time so. Not on a GPU, where the depthwise
    layers of CP factors take more of it so: a step of a ResNet-56 of them 52 ms for 47 on an H200, and with twelve
    processes that train at once there 195 ms for 85.
    """
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def fit(
    network: nn.Module,
    train: Loader,
    validation: Loader,
    steps: Sequence[Step],
    options: TrainOptions,
    factorize: Factorize = lambda _network, _layers: None,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
    teacher: nn.Module | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    reference: float | None = None,
    objective: Objective = CLASSIFICATION,
) -> tuple[EpochRow, ...]:
    """The rows of all epochs; `network` ends factorized and trained, on the CPU, in evaluation mode.

    With `checkpoint`, the state is written there after every factorization and epoch (of a network of more than `LARGE`
    bytes once in `SPACING` seconds), and a fit that finds one goes on from it: at one thread count to the same bits as
    an uninterrupted run, since every epoch seeds itself. The caller deletes the file when it has stored the result.
    `teacher` is the network whose outputs are learned, where the options ask for distillation. `reference` is the
    metric of the network before compression on the validation images, in percent; see `TrainOptions.best`. `objective`
    says what the outputs are for. All processes of `group` call this at once; weights, checkpoint and accuracy of the
    main one count. TrainingError if the loss is no longer finite, a step has nothing to train, distillation has no
    teacher, or nothing else teaches.
    """
    if options.distillation is not None and teacher is None:
        raise TrainingError(
            "distillation learns a teacher's outputs, and no teacher is given; pass one, or leave it out"
        )
    if options.distillation is None and objective.loss is None:
        raise TrainingError(
            f"outputs whose metric is {objective.metric} are not trained by labels, but by a teacher's outputs; leave "
            "fine_tune.distill out"
        )
    loaders = [rebatched(train, step.batch, step.images) for step in steps]
    taught = teacher if options.distillation is not None else None
    taught = taught and taught.to(group.device).to(memory_format=layout_on(group.device)).eval()
    course = _Course(network, steps, options, group, taught, loaders, validation, checkpoint, watch or Watch(),
                     reference, objective)  # fmt: skip
    course.resume()
    state = course.state
    while state.step < len(steps):
        if course.optimizer is None:
            if course.step.layers:
                factorize(network.to("cpu"), course.step.layers)
            course.begin_step()
            state.epoch, state.best, state.since_best = 0, -1.0, 0
            course.record(None)
        patience = math.inf if options.patience is None else options.patience
        while state.epoch < course.step.epochs and not (state.epoch > 0 and state.since_best >= patience):
            loss = course.train_epoch()
            state.epoch += 1
            course.record(loss)
        course.end_step()
    if state.best_weights is not None:
        network.load_state_dict(state.best_weights)
    network.to("cpu").to(memory_format=torch.contiguous_format).eval()
    return tuple(state.rows)


@dataclass
class _Course:
    """A fit under way: the network, the processes that train it, and the optimizer and batches of the current step."""

    network: nn.Module
    steps: Sequence[Step]
    options: TrainOptions
    group: ProcessGroup
    teacher: nn.Module | None
    loaders: list[Loader]
    validation: Loader
    checkpoint: Path | None
    watch: Watch
    reference: float | None
    objective: Objective
    fixed: frozenset[int] = frozenset()
    state: _State = field(default_factory=_State)
    optimizer: torch.optim.Optimizer | None = None
    prepared: nn.Module | None = None
    batches: Batches = ()
    frozen: tuple[nn.Module, ...] = ()
    regularized: Collection[str] = ()
    written: float = -math.inf

    @property
    def step(self) -> Step:
        return self.steps[self.state.step]

    @property
    def loader(self) -> Loader:
        return self.loaders[self.state.step]

    def resume(self) -> None:
        """Brings the network to the checkpoint, if there is one: layers factorized so far, weights, optimizer.

        TrainingError if it is of other settings.
        """
        path, stored = self.checkpoint, None
        if self.group.is_main and path is not None and path.exists():
            stored = torch.load(path, map_location="cpu", weights_only=True)
            if stored["options"] != asdict(self.options) or any(each.name not in stored for each in fields(_State)):
                raise TrainingError(
                    f"{path} was written with other settings or by an earlier version; delete it, or train with the "
                    "settings it holds"
                )
        stored = self.group.broadcast(stored)
        if stored is None:
            return
        values = {each.name: stored[each.name] for each in fields(_State)}
        self.state = _State(**values | {"rows": [EpochRow(**row) for row in stored["rows"]]})
        for step in self.steps[: self.state.step + 1]:
            skeleton(self.network, step.layers)
        self.network.load_state_dict(stored["weights"])
        self.begin_step(stored["optimizer"])
        for row in self.state.rows:
            self.watch.epoch(row)

    def begin_step(self, stored: dict[str, Any] | None = None) -> None:
        """Chooses the step's trainable layers, makes its optimizer and takes this process's shard of the batches."""
        network, options = self.network.to(memory_format=layout_on(self.group.device)), self.options
        new = [layer.name for layer in self.step.layers]
        looks = (options.trainable == "downstream" and new) or options.regularizer is not None
        images = next(iter(self.loader))[0] if looks else torch.empty(0)
        images = images.to(next(network.parameters()).device)
        # Anew for each step: factors are other parameters than the layer's, and are trained where it was frozen.
        self.fixed = frozenset(id(value) for value in network.parameters() if not value.requires_grad)
        self.frozen = frozen_modules(network, new, options.trainable, images)
        if options.regularizer is not None:
            self.regularized = run_order(network, dict(network.named_modules()), images)
        parameters = trainable(network, self.frozen, self.fixed)
        if not parameters:
            raise TrainingError(
                f"step {self.state.step + 1} has nothing to train: what it may train does not ask for gradients; "
                "set requires_grad of a parameter, or train all layers"
            )
        optimizer = make_optimizer(parameters, options)
        if stored is not None:
            optimizer.load_state_dict(stored)
        self.prepared, self.optimizer = self.group.prepare(network, optimizer)
        self.batches = self.group.shard(self.loader)

    def end_step(self) -> None:
        """After the last epoch of a step: nothing is frozen, nobody waits for another, the next step is next."""
        trainable(self.network, (), self.fixed)
        if self.prepared is not None:
            self.group.release(self.prepared)
        self.prepared = self.optimizer = None
        self.state.step += 1

    def record(self, loss: float | None) -> None:
        """Adds the row of an epoch, keeps the best weights, writes the checkpoint."""
        state, step, options, reference = self.state, self.step, self.options, self.reference
        top1, replaces = 0.0, True
        if self.group.is_main and self.objective.score is not None:
            top1 = self.objective.score(self.network, self.validation, None)
        elif self.group.is_main:
            found = accuracy(self.network, self.validation)
            top1 = found.top1
            if state.epoch == 0:
                state.untrained = found.correct
            elif reference is not None and state.rows[-state.epoch].top1 >= reference:
                replaces = mcnemar(found.correct, state.untrained, "greater").p < CHANCE
        top1, replaces = self.group.broadcast((top1, replaces))
        kept = True
        if options.best or (state.epoch > 0 and options.patience is not None):
            state.since_best = 0 if top1 > state.best else state.since_best + 1
            best, last = top1 >= state.best, state.step == len(self.steps) - 1
            state.best = max(state.best, top1)
            kept = (best and replaces) or not last
            if kept and last:
                weights = self.network.state_dict()
                state.best_weights = {name: value.detach().clone() for name, value in weights.items()}
        state.rows.append(EpochRow(state.step, step.title, state.epoch, step.epochs, loss, top1, kept))
        if self.checkpoint is not None and self.group.is_main:
            assert self.optimizer is not None  # it is made before the first row of a step
            size = sum(value.nbytes for value in self.network.state_dict().values())
            if size < LARGE or time.monotonic() - self.written > SPACING:
                _write_checkpoint(self.checkpoint, self.network, self.optimizer, state, self.options)
                self.written = time.monotonic()
        self.watch.epoch(state.rows[-1])

    def train_epoch(self) -> float:
        """Trains one epoch and returns its mean loss. Seeds itself from the step and the epoch, so that it repeats."""
        state, step, loader, optimizer, network = self.state, self.step, self.loader, self.optimizer, self.prepared
        assert optimizer is not None  # `begin_step` made it
        assert network is not None  # likewise
        options = self.options if step.rate is None else replace(self.options, rate=step.rate)
        seed = options.seed * 1_000_003 + state.step * 1_009 + state.epoch
        torch.manual_seed(seed)
        if loader.generator is not None:
            loader.generator.manual_seed(seed)
        self.network.train()
        hold_still(self.frozen)
        term = options.regularizer
        penalty = None if term is None else penalty_of(self.network, term, options.seed, self.regularized)
        losses, count = 0.0, len(loader)
        batches = [each.epochs * len(own) for each, own in zip(self.steps, self.loaders, strict=True)]
        done = sum(batches[: state.step]) + state.epoch * count
        for number, (images, labels) in enumerate(self.batches):
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate_at(options, state.epoch + number / count, step.epochs)
            images, labels = images.to(self.group.device), labels.to(self.group.device)
            loss = loss_of(network(images), labels, images, self.teacher, options.distillation, self.objective)
            if penalty is not None:
                loss = loss + penalty((state.epoch + number / count) / step.epochs)
            optimizer.zero_grad()
            self.group.backward(loss)
            optimizer.step()
            losses += loss.item()
            if not math.isfinite(losses):
                raise TrainingError(
                    f"the loss became {loss.item()} in epoch {state.epoch + 1} of step {state.step + 1}; "
                    "lower fine_tune.rate"
                )
            self.watch.batch(done + number + 1, sum(batches))
        return losses / max(1, count)


def frozen_modules(network: nn.Module, new: Sequence[str], choice: str, images: Tensor) -> tuple[nn.Module, ...]:
    """Modules with parameters or statistics of their own that a step, which factorized the layers `new`, leaves as
    they are.

    "downstream" goes by the order in which modules first run on `images`; one that never runs counts as upstream.
    Where nothing is factorized, all are trained.
    """
    if choice == "all" or not new:
        return ()
    holders = {
        name: module
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
        or next(module.buffers(recurse=False), None) is not None
    }
    fresh = {name for name in holders if any(name == layer or name.startswith(f"{layer}.") for layer in new)}
    if choice == "downstream":
        order = run_order(network, holders, images)
        first = min((order.index(name) for name in fresh if name in order), default=len(order))
        fresh |= set(order[first:])
    return tuple(module for name, module in holders.items() if name not in fresh)


def run_order(network: nn.Module, modules: dict[str, nn.Module], images: Tensor) -> list[str]:
    """The names of `modules` in the order in which they first run, those that never run left out."""
    order: dict[str, None] = {}

    def note(name: str, _module: nn.Module, _inputs: object) -> None:
        order.setdefault(name)

    with evaluating(network), torch.no_grad(), ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(partial(note, name)).remove)
        network(images)
    return list(order)


def trainable(network: nn.Module, frozen: Sequence[nn.Module], fixed: Container[int]) -> list[nn.Parameter]:
    """The parameters that are trained; those of the frozen modules no longer ask for gradients.

    `fixed` holds the ids of those that the network itself does not train.
    """
    held = {id(value) for module in frozen for value in module.parameters(recurse=False)}
    for value in network.parameters():
        value.requires_grad_(id(value) not in held and id(value) not in fixed)
    return [value for value in network.parameters() if value.requires_grad]


def hold_still(frozen: Sequence[nn.Module]) -> None:
    """Frozen modules run as in evaluation, so that their statistics stay too; modules inside them as they were."""
    for module in frozen:
        module.training = False


def rebatched(loader: Loader, batch: int | None, images: int | None) -> Loader:
    """The loader with `batch` images in a batch and `images` in an epoch; None is as it was.

    A last batch of one image would break BatchNorm.
    """
    if batch in (None, loader.batch_size) and images is None:
        return loader
    whole = len(loader.dataset)  # type: ignore[arg-type]  # every dataset of ours has a length
    generator, batch = torch.Generator(), batch or loader.batch_size or 1
    count = images or whole
    drawn = RandomSampler(range(whole), num_samples=count, generator=generator)
    return DataLoader(
        loader.dataset,
        batch,
        sampler=drawn if images or isinstance(loader.sampler, RandomSampler) else loader.sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=count > batch and count % batch == 1,
        worker_init_fn=loader.worker_init_fn,
        generator=generator,
    )


def _write_checkpoint(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, state: _State, options: TrainOptions
) -> None:
    """Writes the checkpoint whole or not at all. TrainingError where the disk is full."""
    content: dict[str, Any] = asdict(state) | {
        "options": asdict(options),
        "weights": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    unfinished = path.with_suffix(".partial")
    try:
        torch.save(content, unfinished)
        unfinished.replace(path)
    except RuntimeError as error:  # torch's way to say that the disk is full
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(f"{path} cannot be written ({reason}); free some room, then go on") from error
    finally:
        unfinished.unlink(missing_ok=True)
