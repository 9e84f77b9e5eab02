"""One training loop: epochs with a cut before some of them, a checkpoint after each, and an exact way to go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler

from compressor.distributed import SINGLE_PROCESS, Batches, ProcessGroup
from compressor.plan import LayerPlan
from compressor.surgery import skeleton
from compressor.training.checkpoints import EpochRow, State, TrainingError, read_checkpoint, state_of, write_checkpoint
from compressor.training.distillation import distilled_loss
from compressor.training.evaluate import Accuracy, Batch, accuracy
from compressor.training.freezing import frozen_modules, hold_still, run_order, trainable
from compressor.training.options import TrainOptions, make_optimizer, rate_at
from compressor.training.schedules import Step
from compressor.weight_sharing.regularizers import penalty_of

__all__ = [
    "Accuracy",
    "EpochRow",
    "TrainOptions",
    "TrainingError",
    "Watch",
    "accuracy",
    "fit",
    "make_optimizer",
    "rate_at",
]

Loader = DataLoader[Batch]
Cut = Callable[[nn.Module, tuple[LayerPlan, ...]], None]


def layout_on(device: torch.device) -> torch.memory_format:
    """How weights and activations lie while they are trained there.

    Channels last on a CPU, where a step of a ResNet-20 takes 0.7 of the time so. Not on a GPU, where the depthwise
    layers of CP factors take more of it so: a step of a ResNet-56 of them 52 ms for 47 on an H200, and with twelve
    processes that train at once there 195 ms for 85.
    """
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


@dataclass(frozen=True)
class Watch:
    """Where a caller hears of progress: every row, and after every batch (done, total) of the whole fit."""

    epoch: Callable[[EpochRow], None] = lambda _row: None
    batch: Callable[[int, int], None] = lambda _done, _total: None


@dataclass
class _Course:
    """A fit under way: the network, who trains it, and what the step that it is in works with."""

    network: nn.Module
    steps: Sequence[Step]
    options: TrainOptions
    group: ProcessGroup
    teacher: nn.Module | None
    loaders: list[Loader]
    fixed: frozenset[int] = frozenset()
    state: State = field(default_factory=State)
    optimizer: torch.optim.Optimizer | None = None
    shared: nn.Module | None = None
    batches: Batches = ()
    frozen: tuple[nn.Module, ...] = ()
    regularized: Collection[str] = ()

    @property
    def step(self) -> Step:
        return self.steps[self.state.step]

    @property
    def loader(self) -> Loader:
        return self.loaders[self.state.step]

    @property
    def done(self) -> int:
        """Batches of the epochs that are over."""
        before = zip(self.steps[: self.state.step], self.loaders, strict=False)
        return sum(step.epochs * len(loader) for step, loader in before) + self.state.epoch * len(self.loader)


def fit(
    network: nn.Module,
    train: Loader,
    held_out: Loader,
    steps: Sequence[Step],
    options: TrainOptions,
    cut: Cut = lambda _network, _layers: None,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
    teacher: nn.Module | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[EpochRow, ...]:
    """The rows of all epochs; `network` ends cut and trained, on the CPU, in evaluation mode.

    With `checkpoint`, the state is written there after every cut and epoch, and a fit that finds one goes on from it:
    at one thread count to the same bits as an uninterrupted run, since every epoch seeds itself. The caller deletes the
    file when it has stored the result. `teacher` is whose answers are learned, where the options ask for distillation.
    All processes of `group` call this at once; weights, checkpoint and accuracy of the main one count. TrainingError
    if the loss is no longer finite, a step has nothing to train, or distillation has no teacher.
    """
    if options.distillation is not None and teacher is None:
        raise TrainingError(
            "distillation learns a teacher's answers, and no teacher is given; pass one, or leave it out"
        )
    watch = watch or Watch()
    loaders = [_rebatched(train, step.batch, step.images) for step in steps]
    taught = teacher if options.distillation is not None else None
    taught = taught and taught.to(group.device).to(memory_format=layout_on(group.device)).eval()
    course = _Course(network, steps, options, group, taught, loaders)
    stored = group.broadcast(read_checkpoint(checkpoint, options) if group.is_main else None)
    if stored is not None:
        _go_on(course, stored)
        for row in course.state.rows:
            watch.epoch(row)
    note = partial(_note, course, held_out, checkpoint, watch)
    state = course.state
    while state.step < len(steps):
        if course.optimizer is None:
            if course.step.cut:
                cut(network.to("cpu"), course.step.cut)
            _begin(course)
            state.epoch, state.best, state.since_best = 0, -1.0, 0
            note(None)
        while state.epoch < course.step.epochs and not _patience_spent(state, options):
            loss = _epoch(course, watch)
            state.epoch += 1
            note(loss)
        _end(course)
    if state.best_weights is not None:
        network.load_state_dict(state.best_weights)
    network.to("cpu").to(memory_format=torch.contiguous_format).eval()
    return tuple(state.rows)


def _go_on(course: _Course, stored: dict[str, object]) -> None:
    """Brings the network to the checkpoint: the layers cut so far, their weights, and the optimizer."""
    course.state = state_of(stored)
    for step in course.steps[: course.state.step + 1]:
        skeleton(course.network, step.cut)
    course.network.load_state_dict(stored["weights"])  # type: ignore[arg-type]  # as write_checkpoint put it there
    _begin(course, stored["optimizer"])


def _begin(course: _Course, stored: object = None) -> None:
    """What the step is trained with: which layers, the optimizer, this process's part of the batches."""
    network, options = course.network.to(memory_format=layout_on(course.group.device)), course.options
    new = [layer.name for layer in course.step.cut]
    looks = (options.trained == "downstream" and new) or options.regularizer is not None
    images = next(iter(course.loader))[0] if looks else torch.empty(0)
    images = images.to(next(network.parameters()).device)
    # Anew for each step: factors are other parameters than the layer's, and as frozen as its own were.
    course.fixed = frozenset(id(value) for value in network.parameters() if not value.requires_grad)
    course.frozen = frozen_modules(network, new, options.trained, images)
    if options.regularizer is not None:
        course.regularized = run_order(network, dict(network.named_modules()), images)
    parameters = trainable(network, course.frozen, course.fixed)
    if not parameters:
        raise TrainingError(
            f"step {course.state.step + 1} has nothing to train: what it may train does not ask for gradients; "
            "set requires_grad of a parameter, or train all layers"
        )
    optimizer = make_optimizer(parameters, options)
    if stored is not None:
        optimizer.load_state_dict(stored)  # type: ignore[arg-type]  # likewise
    course.shared, course.optimizer = course.group.prepare(network, optimizer)
    course.batches = course.group.shard(course.loader)


def _end(course: _Course) -> None:
    """After the last epoch of a step: nothing is frozen, nobody waits for another, the next step is next."""
    trainable(course.network, (), course.fixed)
    if course.shared is not None:
        course.group.release(course.shared)
    course.shared = course.optimizer = None
    course.state.step += 1


def _note(course: _Course, held_out: Loader, checkpoint: Path | None, watch: Watch, loss: float | None) -> None:
    """Adds the row of an epoch, keeps the best weights, writes the checkpoint."""
    state, step, is_main = course.state, course.step, course.group.is_main
    top1 = course.group.broadcast(accuracy(course.network, held_out).top1 if is_main else 0.0)
    row = EpochRow(state.step, step.title, state.epoch, step.epochs, loss, top1)
    state.rows.append(row)
    _keep_best(state, row, course.network, course.options, last=state.step == len(course.steps) - 1)
    if checkpoint is not None and is_main:
        assert course.optimizer is not None  # it is made before the first row of a step
        write_checkpoint(checkpoint, course.network, course.optimizer, state, course.options)
    watch.epoch(row)


def _rebatched(loader: Loader, batch: int | None, images: int | None) -> Loader:
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


def _patience_spent(state: State, options: TrainOptions) -> bool:
    return options.patience is not None and state.epoch > 0 and state.since_best >= options.patience


def _keep_best(state: State, row: EpochRow, network: nn.Module, options: TrainOptions, last: bool) -> None:
    """Notes whether the accuracy rose, and in the last step copies the best weights where they are asked for."""
    if not options.best and (row.epoch == 0 or options.patience is None):
        return
    if row.top1 < state.best:
        state.since_best += 1
        return
    state.since_best = state.since_best + 1 if row.top1 == state.best else 0
    state.best = row.top1
    if last:
        state.best_weights = {name: value.detach().clone() for name, value in network.state_dict().items()}


def _epoch(course: _Course, watch: Watch) -> float:
    """Trains one epoch and returns its mean loss. Seeds itself from the step and the epoch, so that it repeats."""
    state, step, loader, optimizer = course.state, course.step, course.loader, course.optimizer
    assert optimizer is not None  # `_begin` made it
    options = course.options if step.rate is None else replace(course.options, rate=step.rate)
    seed = options.seed * 1_000_003 + state.step * 1_009 + state.epoch
    torch.manual_seed(seed)
    if loader.generator is not None:
        loader.generator.manual_seed(seed)
    course.network.train()
    hold_still(course.frozen)
    term = options.regularizer
    penalty = None if term is None else penalty_of(course.network, term, options.seed, course.regularized)
    losses, count = 0.0, len(loader)
    total = sum(each.epochs * len(own) for each, own in zip(course.steps, course.loaders, strict=True))
    for number, (images, labels) in enumerate(course.batches):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(options, state.epoch + number / count, step.epochs)
        loss = _loss(course, images.to(course.group.device), labels.to(course.group.device))
        if penalty is not None:
            loss = loss + penalty((state.epoch + number / count) / step.epochs)
        optimizer.zero_grad()
        course.group.backward(loss)
        optimizer.step()
        losses += loss.item()
        if not math.isfinite(losses):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {state.epoch + 1} of step {state.step + 1}; "
                "lower fine_tune.rate"
            )
        watch.batch(course.done + number + 1, total)
    return losses / max(1, count)


def _loss(course: _Course, images: Tensor, labels: Tensor) -> Tensor:
    """The loss of a batch: cross-entropy, or with a teacher what the distillation makes of both."""
    assert course.shared is not None  # `_begin` made it
    output = course.shared(images)
    logits = output if isinstance(output, Tensor) else output[0]  # GoogLeNet and Inception add their side heads
    how = course.options.distillation
    if course.teacher is None or how is None:  # both or neither, as `fit` has checked
        return functional.cross_entropy(logits, labels)
    with torch.no_grad():
        answers = course.teacher(images)
    return distilled_loss(logits, labels, answers, how)
