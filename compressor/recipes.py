"""RECIPES: whole systems by name, the seed papers', their rivals' and ours, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from compressor.shapes import PlanError

if TYPE_CHECKING:
    from compressor.costs import LayerCost

Need = Literal["window", "linear"]


@dataclass(frozen=True)
class Pace:
    """Images in a batch and learning rate of the first `steps` steps of a schedule, or of all that are left."""

    steps: int | None
    batch: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """How ranks are chosen, which form each kind of layer takes, and how the cut network is tuned.

    `methods` are the forms to choose among, none means the rule's own; `fit` says what factors are fitted to where
    there is data. `epochs` is for each step of the schedule, `total_epochs`, where given, for all of them together;
    `rate_step` counts epochs. `paces` take the place of the batch and the rate, step by step. `needs` is what a network
    must have: a convolution with a window larger than 1x1, or a fully connected layer. `regularizer` acts while
    training and tuning; with `share` weights are shared after that and their centroids tuned.
    """

    source: str
    needs: Need | None = None
    rank_rule: str = "budget"
    methods: tuple[str, ...] = ()
    fit: Literal["outputs", "weights"] = "outputs"
    schedule: str = "auto"
    epochs: int = 2
    total_epochs: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    rate: float = 3e-4
    rate_shape: Literal["cosine", "step", "one-cycle"] = "cosine"
    rate_step: int = 5
    distill: bool | None = None
    paces: tuple[Pace, ...] = ()
    regularizer: str | None = None
    share: str | None = None
    share_epochs: int = 1
    share_rate: float = 3e-4


_SGD = Recipe(
    "fitted to weights, tuned by plain gradient descent with a rate that falls by steps",
    needs="window",
    fit="weights",
    schedule="one-shot",
    epochs=15,
    optimizer="sgd",
    rate=1e-3,
    rate_shape="step",
    distill=False,
)
"""What the papers of 2015 to 2018 have in common."""

_CP_TPM = replace(
    _SGD,
    source="Astrid and Lee, CP-decomposition with Tensor Power Method for Convolutional Neural Networks Compression, "
    "BigComp 2017: ranks by sensitivity, CP for windows, SVD for the rest, one layer after the other",
    rank_rule="sensitivity",
    schedule="iterative",
    paces=(Pace(2, 128, 1e-3), Pace(None, 32, 2e-3)),  # two layers in batches of 128, then 32 at twice the rate
)

RECIPES: dict[str, Recipe] = {
    "default": Recipe("ours: methods and ranks by budget, fitted to outputs, then tuned"),
    "cp-tpm-2017": _CP_TPM,
    "hybrid-2018": replace(
        _CP_TPM,
        source="Astrid and Lee, Deep compression of convolutional neural networks with low-rank approximation, ETRI "
        "Journal 40(4), 2018, as its abstract says: CP for windows one by one, then SVD for all the rest in one step",
        schedule="hybrid",
    ),
    "tucker-vbmf-2015": replace(
        _SGD,
        source="Kim et al., Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile "
        "Applications, arXiv 2015: Tucker-2 and SVD at EVBMF's ranks, all layers in one step",
        rank_rule="vbmf",
    ),
    "cp-als": replace(
        _SGD,
        source="after Lebedev et al., Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition, "
        "ICLR 2015: CP by alternating least squares at equal errors, all layers in one step",
        rank_rule="equal-error",
        methods=("cp-als", "svd"),
    ),
    "on-the-fly-2015": Recipe(
        "after Soulie, Gripon and Robert, Compression of Deep Neural Networks on the Fly, arXiv 2015: fully connected "
        "weights trained towards few values, then product quantization, then its centroids tuned; nothing is cut",
        needs="linear",
        rank_rule="none",
        schedule="one-shot",
        regularizer="quartic",
        share="8x16",
        share_epochs=2,
        share_rate=1e-3,
    ),
}

_LACKS = {
    "window": "a convolution with a window larger than 1x1",
    "linear": "a fully connected layer",
}


def check_needs(name: str, layers: Sequence[LayerCost]) -> None:
    """PlanError where no layer that may be factored is of the kind that the recipe `name` is for."""
    need = RECIPES[name].needs
    free = [layer.shape for layer in layers if layer.must_keep is None]
    if need is None or any(_kind(shape.kind, shape.kernel[2]) == need for shape in free):
        return
    kinds = sorted({_LACKS.get(_kind(shape.kind, shape.kernel[2]), "a 1x1 convolution") for shape in free})
    raise PlanError(
        f"the recipe {name} needs {_LACKS[need]}, and this network has none that may be factored "
        f"(it has {', '.join(kinds) or 'nothing that may be factored'}); leave out --recipe, or take another: "
        "`compress-export list recipes`"
    )


def _kind(kind: str, positions: int) -> str:
    if kind == "linear":
        return "linear"
    return "window" if positions > 1 else "1x1"
