"""PAPER_RANKS: the ranks that papers print for their own networks, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compressor.costs import LayerCost
from compressor.shapes import PlanError


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
    ),
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
