"""RECIPES: whole systems by name, the seed papers', their rivals' and ours, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from compressor.layer_shape import PlanError

if TYPE_CHECKING:
    from compressor.survey import LayerCost


@dataclass(frozen=True)
class PaperRanks:
    """Ranks of a paper for its network, layer by layer in the order in which they run.

    `weights` are the shapes of the layers' weights. The ranks are those of whole layers as the paper prints them: a
    layer of two groups gets half in each.
    """

    source: str
    network: str
    weights: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...]


PAPER_RANKS: dict[str, PaperRanks] = {
    "astrid-lee-2017": PaperRanks(
        source="Astrid and Lee, CP-decomposition with Tensor Power Method for Convolutional Neural Networks "
        "Compression, BigComp 2017",
        network="alexnet-caffe",
        weights=(
            (96, 3, 11, 11),
            (256, 48, 5, 5),
            (384, 256, 3, 3),
            (384, 192, 3, 3),
            (256, 192, 3, 3),
            (4096, 9216),
            (4096, 4096),
            (1000, 4096),
        ),
        ranks=(69, 154, 153, 178, 196, 365, 275, 260),
    )
}


def ranks_for(paper: PaperRanks, layers: Sequence[LayerCost]) -> dict[str, int]:
    """The paper's rank for each group of each layer.

    PlanError unless the layers are those of the paper's network; the number of classes may be another.
    """
    own = [layer.weight for layer in layers]
    if [*own[:-1], own[-1][1:]] != [*paper.weights[:-1], paper.weights[-1][1:]]:
        raise PlanError(
            f"the ranks are for {paper.network}, and this network has other layers; take --ranks layer=rank,..., or "
            f"compress {paper.network}"
        )
    return {layer.name: rank // layer.shape.groups for layer, rank in zip(layers, paper.ranks, strict=True)}


def parameters_with_every_bias(layers: Sequence[tuple[LayerCost, int]]) -> int:
    """Parameters under the papers' counting: Caffe gives every factor a bias, ours only the last one of a layer.

    `layers` pairs each layer with its rank for one group.
    """
    total = 0
    for layer, rank in layers:
        outputs, inputs, positions = layer.shape.kernel
        window = positions if positions > 1 else 0
        factors = 2 if window else 1
        groups = layer.shape.groups
        total += groups * rank * (inputs + window + outputs) + factors * groups * rank + layer.shape.outputs
    return total


Need = Literal["window", "linear"]


@dataclass(frozen=True)
class Pace:
    """Images in a batch and learning rate of the first `steps` steps of a schedule, or of all that are left."""

    steps: int | None
    batch: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """A rank rule, the methods of each kind of layer, and the tuning of the compressed network.

    `methods` are those to choose among, none means the rule's own; `fit` says what factors are fitted to where
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
    rate_schedule: Literal["cosine", "step", "one-cycle"] = "cosine"
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
    rate_schedule="step",
    distill=False,
)
"""Settings that the papers of 2015 to 2018 have in common."""


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
        "weights trained towards few values, then product quantization, then its centroids tuned; nothing is factored",
        needs="linear",
        rank_rule="none",
        schedule="one-shot",
        regularizer="quartic",
        share="8x16",
        share_epochs=2,
        share_rate=1e-3,
    ),
}


_LACKS = {"window": "a convolution with a window larger than 1x1", "linear": "a fully connected layer"}


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
