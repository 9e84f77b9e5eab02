"""Weights and ways to share them, over all that `Sharing` can say."""

import torch
from hypothesis import strategies as st

from compressor.weight_sharing.product_quantization import Sharing, grid


@st.composite
def problems(draw):
    """(weight, sharing) with no more centroids than sub-vectors; lengths that do not divide included."""
    shape = draw(
        st.one_of(
            st.tuples(st.integers(2, 9), st.integers(2, 13)),
            st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
        )
    )
    length, split = draw(st.integers(1, 7)), draw(st.sampled_from(["columns", "rows"]))
    codebook = draw(st.sampled_from(["layer", "block"]))
    most = grid(shape, Sharing(length, 2, split, codebook)).served
    if most < 2:
        length, split, codebook = 1, "columns", "layer"
        most = grid(shape, Sharing(1, 2)).served
    sharing = Sharing(length, draw(st.integers(2, min(most, 9))), split, codebook)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return torch.randn(shape, generator=generator), sharing
