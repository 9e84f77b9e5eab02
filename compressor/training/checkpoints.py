"""Checkpoints of a fit: what is written after every cut and epoch, and read by the fit that goes on from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.training.options import TrainOptions


class TrainingError(RuntimeError):
    """Training that cannot go on: a loss that is no number, a checkpoint of other settings."""


@dataclass(frozen=True)
class EpochRow:
    """One line of tuning.jsonl: what was cut, which epoch of its step (0: cut and not yet trained), how it stands.

    `top1` is the accuracy in percent on the held-out share of the training data.
    """

    step: int
    cut: str
    epoch: int
    epochs: int
    loss: float | None
    top1: float


@dataclass
class State:
    """Where a fit stands."""

    step: int = 0
    epoch: int = 0
    rows: list[EpochRow] = field(default_factory=list)
    best: float = -1.0
    since_best: int = 0
    best_weights: dict[str, Tensor] | None = None


def write_checkpoint(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, state: State, options: TrainOptions
) -> None:
    """Writes it whole or not at all. TrainingError where the disk is full."""
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


def read_checkpoint(path: Path | None, options: TrainOptions) -> dict[str, Any] | None:
    """What `write_checkpoint` wrote, None where there is no file. TrainingError if it is of other settings."""
    if path is None or not path.exists():
        return None
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content["options"] != asdict(options):
        raise TrainingError(f"{path} was written with other settings; delete it, or train with the settings it holds")
    return content


def state_of(content: dict[str, Any]) -> State:
    """The state that a checkpoint's content holds."""
    rows = [EpochRow(**row) for row in content["rows"]]
    fields = {name: content[name] for name in ("step", "epoch", "best", "since_best", "best_weights")}
    return State(rows=rows, **fields)
