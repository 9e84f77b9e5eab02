"""SYSTEMS and GRIDS: the experiments as data. A new grid is one entry here, a new system another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from compress_export.settings import Fit, PlanSettings, Trainable, TuneSettings


@dataclass(frozen=True)
class System:
    """A way to choose ranks and methods, to fit the factors, and to tune the compressed network. At a budget of
    MACs, every system answers to the same one."""

    methods: tuple[str, ...] = ()
    rank_rule: str = "budget"
    fit: Fit = "weights"
    schedule: str = "one-shot"
    distill: bool = False
    trainable: Trainable = "all"

    def plan(self, budget: str) -> PlanSettings:
        return PlanSettings(rank_rule=self.rank_rule, methods=self.methods, max_macs=budget, fit=self.fit)

    def tuning(self, epochs: float, base: TuneSettings) -> TuneSettings:
        """Every system is tuned for as many epochs in all, with the optimizer of `base`."""
        return replace(
            base,
            schedule=self.schedule,
            epochs=1,
            total_epochs=epochs,
            trainable=self.trainable,
            distill=self.distill,
        )


OURS = System(fit="outputs", distill=True)
CP_TPM = System(("cp", "svd"), "sensitivity")
SYSTEMS: dict[str, System] = {
    "ours": OURS,
    "ours, fitted to weights": replace(OURS, fit="weights"),
    "ours, not distilled": replace(OURS, distill=False),
    "ours, iterative": replace(OURS, schedule="iterative"),
    "cp-tpm": CP_TPM,
    "cp-tpm, iterative": replace(CP_TPM, schedule="iterative"),
    "cp-tpm, hybrid": replace(CP_TPM, schedule="hybrid"),
    "cp-tpm, new factors alone": replace(CP_TPM, schedule="iterative", trainable="new"),
    "cp-tpm, downstream": replace(CP_TPM, schedule="iterative", trainable="downstream"),
    "cp-tpm, ranks by budget": System(("cp", "svd")),
    "cp-als, sensitivity": System(("cp-als", "svd"), "sensitivity"),
    "cp-als": System(("cp-als", "svd")),
    "cp-polished": System(("cp-polished", "svd")),
    "tucker-vbmf": System((), "vbmf"),
    "tucker": System(("tucker", "svd")),
    "spatial": System(("spatial", "svd")),
    "channel": System(("channel", "svd")),
}

METHODS_GRID = ("cp-tpm", "cp-polished", "cp-als", "tucker-vbmf", "tucker", "spatial", "channel", "ours",
                "ours, fitted to weights", "ours, not distilled")  # fmt: skip
CLAIMS_GRID = ("cp-tpm", "cp-tpm, iterative", "cp-tpm, hybrid", "cp-als, sensitivity", "cp-tpm, ranks by budget",
               "tucker-vbmf", "tucker", "cp-tpm, new factors alone", "cp-tpm, downstream")  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Systems at budgets, each with some seeds; or the table of a paper, which is counted and needs no data."""

    what: str
    systems: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ("0.5x", "0.25x")
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: float = 2
    kind: Literal["trained", "counted"] = "trained"


GRIDS: dict[str, Grid] = {
    "methods": Grid("every method at equal budgets and epochs", METHODS_GRID),
    "claims": Grid("the papers' claims: schedules, TPM and ALS, rank rules, freezing", CLAIMS_GRID, ("0.25x",)),
    "headline": Grid("ours beside published figures", ("ours",), ("0.46x", "0.352x", "0.25x"), epochs=6),
    "deep": Grid("ours and two rivals on a deeper network", ("ours", "cp-polished", "spatial"), epochs=6),
    "paper": Grid("AlexNet by the paper's ranks and by ours", kind="counted"),
}  # fmt: skip
"""The third grid of the papers, compression on the fly, is another entry."""


@dataclass(frozen=True)
class Cell:
    """One experiment, whichever grid asks for it: a system at a budget with a seed, on a network and as many images of
    its data; the paper's table has no data and no budget. `course` says how
    every system is tuned: optimizer, rate and its shape, batch; `source` is a digest of the network's code, weights,
    image and training, for another network may have the same name."""

    system: str
    network: str
    data: str | None
    budget: str | None
    seed: int
    epochs: int | float  # as it was written, so that a line keeps its text
    course: str = ""
    images: int | None = None
    source: str = ""

    @property
    def name(self) -> str:
        """A folder's name that no other cell has."""
        words = [self.system, self.network, self.data, self.budget, self.seed, self.epochs, self.course, self.images,
                 self.source]  # fmt: skip
        return "-".join("".join(c if c.isalnum() or c == "." else "_" for c in str(word)) for word in words)


def cells_of(
    grid: str, network: str, data: str | None, course: str = "", images: int | None = None, source: str = ""
) -> tuple[Cell, ...]:
    """All cells of a grid on a network, seed by seed, so that an early end leaves whole comparisons."""
    found = GRIDS[grid]
    if found.kind == "counted":
        return (Cell("counted", "alexnet-caffe", None, None, 0, 0),)
    return tuple(
        Cell(system, network, data, budget, seed, found.epochs, course, images, source)
        for seed in found.seeds
        for budget in found.budgets
        for system in found.systems
    )
