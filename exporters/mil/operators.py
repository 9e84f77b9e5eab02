"""OPERATORS: the operators of MIL that exported networks consist of, on torch.

Each takes the arguments of the operation by name and gives a tensor, or several where there are several outputs.
Numbers are float32, int64 or bool; the interpreter rounds each result to the type that the program declares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from exporters.mil import layers
from exporters.mil.layers import integers

Value = Tensor | str
Result = Tensor | Sequence[Tensor]


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """One value for each channel (axis 1 of `x`)."""
    return values.reshape(-1, *[1] * (x.dim() - 2))


def unary(operator: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A function of torch under MIL's name of its parameter."""
    return lambda x: operator(x)


def binary(operator: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A function of torch under MIL's names of its parameters."""
    return lambda x, y: operator(x, y)


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def reduction(operator: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    """The operator over some axes, all of them where none are named."""

    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
        return operator(x, integers(axes, range(x.dim())), bool(keep_dims))

    return reduce


def extreme_index(operator: Callable[[Tensor, int, bool], Tensor]) -> Callable[..., Tensor]:
    """The operator along one axis; the type of its indices is declared with its output."""

    def reduce(
        x: Tensor,
        axis: Tensor | int = -1,
        keep_dims: Tensor | bool = False,
        output_dtype: str = "int32",  # noqa: ARG001  # see above
    ) -> Tensor:
        return operator(x, int(axis), bool(keep_dims))

    return reduce


def product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(dim=axis, keepdim=keep)
    return x


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[index] if size == 0 else size for index, size in enumerate(integers(shape))])


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in integers(axes)):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze(integers(axes, range(x.dim())))


def concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    if not interleave:
        return torch.cat([value.reshape(-1) if value.dim() == 0 else value for value in values], int(axis))
    place = int(axis) % values[0].dim()
    return torch.stack([*values], place + 1).flatten(place, place + 1)


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> Sequence[Tensor]:
    size = x.shape[int(axis)]
    if split_sizes is None and num_splits is not None:
        return torch.split_with_sizes(x, [size // int(num_splits)] * int(num_splits), int(axis))
    return torch.split_with_sizes(x, integers(split_sizes), int(axis))


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """Through numpy, whose slices may step backwards."""
    rank = x.dim()
    fields = [integers(begin), integers(end), integers(stride, [1] * rank)]
    fields += [integers(mask, [0] * rank) for mask in (begin_mask, end_mask, squeeze_mask)]
    index = tuple(
        first if single else slice(None if from_start else first, None if to_end else last, step)
        for first, last, step, from_start, to_end, single in zip(*fields, strict=True)
    )
    return torch.from_numpy(np.array(x.numpy()[index]))


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    for axis, (first, count) in enumerate(zip(integers(begin), integers(size), strict=True)):
        start = first % x.shape[axis]
        x = x.narrow(axis, start, x.shape[axis] - start if count < 0 else count)
    return x


def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | float = 0.0) -> Tensor:
    pairs = pad.reshape(-1, 2).tolist()
    width = [(0, 0)] * (x.dim() - len(pairs)) + [(int(before), int(after)) for before, after in pairs]
    if mode == "constant":
        return layers.padded(x, width, float(constant_val))
    return torch.from_numpy(np.pad(x.numpy(), width, mode="edge" if mode == "replicate" else "reflect"))


def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,  # noqa: ARG001  # torch always looks
) -> Tensor:
    place, batch = int(axis) % x.dim(), int(batch_dims)
    if batch:
        return torch.stack([gather(one, own, place - 1, batch - 1) for one, own in zip(x, indices, strict=True)])
    chosen = x.index_select(place, (indices.long() % x.shape[place]).reshape(-1))
    return chosen.reshape(*x.shape[:place], *indices.shape, *x.shape[place + 1 :])


def gather_along_axis(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    validate_indices: Tensor | bool = False,  # noqa: ARG001  # torch always looks
) -> Tensor:
    return torch.take_along_dim(x, indices.long() % x.shape[int(axis)], int(axis))


def topk(
    x: Tensor,
    k: Tensor | int = 1,
    axis: Tensor | int = -1,
    ascending: Tensor | bool = False,
    sort: Tensor | bool = True,
    return_indices: Tensor | bool = True,
    output_indices_dtype: str = "int32",  # noqa: ARG001  # declared with the output
) -> Sequence[Tensor]:
    found = torch.topk(x, int(k), int(axis), largest=not ascending, sorted=bool(sort))
    return (found.values, found.indices) if return_indices else (found.values,)


def cumsum(
    x: Tensor, axis: Tensor | int = 0, exclusive: Tensor | bool = False, reverse: Tensor | bool = False
) -> Tensor:
    place = [int(axis)]
    x = x.flip(place) if reverse else x
    sums = x.cumsum(int(axis)) - x if exclusive else x.cumsum(int(axis))
    return sums.flip(place) if reverse else sums


ACTIVATIONS: dict[str, Callable[..., Result]] = {
    "clamped_relu": lambda x, alpha, beta: torch.where(x >= 0, x, alpha * x).minimum(beta),
    "clip": lambda x, alpha, beta: x.maximum(alpha).minimum(beta),
    "elu": lambda x, alpha: torch.where(x > 0, x, alpha * torch.expm1(x)),
    "gelu": gelu,
    "leaky_relu": lambda x, alpha: torch.where(x >= 0, x, alpha * x),
    "linear_activation": lambda x, alpha, beta: x * alpha + beta,
    "prelu": lambda x, alpha: torch.where(x > 0, x, _channels(alpha, x) * x),
    "relu6": lambda x: x.clamp(0, 6),
    "scaled_tanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "sigmoid_hard": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "softmax": lambda x, axis=-1: torch.softmax(x, int(axis)),
    "softplus": lambda x: torch.logaddexp(x, torch.zeros(())),
    "softplus_parametric": lambda x, alpha, beta: (
        _channels(alpha, x) * torch.logaddexp(_channels(beta, x) * x, torch.zeros(()))
    ),
    "thresholded_relu": lambda x, alpha: torch.where(x >= alpha, x, 0.0),
}

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softsign": functional.softsign,
}

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "real_div": torch.div,
    "sub": torch.sub,
}

ELEMENTWISE: dict[str, Callable[..., Result]] = {
    **{name: unary(operator) for name, operator in UNARY.items()},
    **{name: binary(operator) for name, operator in BINARY.items()},
    "cast": lambda x, dtype: x,  # noqa: ARG005  # to the type that is declared
    "identity": lambda x: x,
    "inverse": lambda x, epsilon=1e-4: 1 / (x + epsilon),
    "log": lambda x, epsilon=1e-45: torch.log(x + epsilon),
    "rsqrt": lambda x, epsilon=1e-12: torch.rsqrt(x + epsilon),
    "select": lambda cond, a, b: torch.where(cond, a, b),
    "threshold": lambda x, alpha: x.maximum(alpha),
}

REDUCTIONS: dict[str, Callable[..., Result]] = {
    "reduce_argmax": extreme_index(torch.argmax),
    "reduce_argmin": extreme_index(torch.argmin),
    "reduce_l1_norm": reduction(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "reduce_l2_norm": reduction(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "reduce_log_sum": reduction(lambda x, axes, keep: x.sum(axes, keep).log()),
    "reduce_log_sum_exp": reduction(torch.logsumexp),
    "reduce_max": reduction(torch.amax),
    "reduce_mean": reduction(torch.mean),
    "reduce_min": reduction(torch.amin),
    "reduce_prod": reduction(product),
    "reduce_sum": reduction(torch.sum),
    "reduce_sum_square": reduction(lambda x, axes, keep: x.square().sum(axes, keep)),
}

SHAPES: dict[str, Callable[..., Result]] = {
    "argsort": lambda x, axis=-1, ascending=False: torch.argsort(x, int(axis), not ascending),
    "concat": concat,
    "cumsum": cumsum,
    "expand_dims": expand_dims,
    "fill": lambda shape, value=0.0: torch.full(integers(shape), float(value)),
    "flatten2d": lambda x, axis=1: x.reshape(math.prod(x.shape[: int(axis)]), -1),
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "pad": pad,
    "pixel_shuffle": lambda x, upscale_factor: functional.pixel_shuffle(x, int(upscale_factor)),
    "pixel_unshuffle": lambda x, downscale_factor: functional.pixel_unshuffle(x, int(downscale_factor)),
    "range_1d": lambda end, start, step: torch.arange(start.item(), end.item(), step.item()),
    "reshape": reshape,
    "reverse": lambda x, axes=None: x.flip(integers(axes, range(x.dim()))),
    "shape": lambda x: torch.tensor(x.shape),
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "split": split,
    "squeeze": squeeze,
    "stack": lambda values, axis: torch.stack([*values], int(axis)),
    "tile": lambda x, reps: x.repeat(integers(reps)),
    "topk": topk,
    "transpose": lambda x, perm: x.permute(integers(perm)),
}

LAYERS: dict[str, Callable[..., Result]] = {
    operator.__name__: operator
    for operator in (
        layers.avg_pool,
        layers.batch_norm,
        layers.conv,
        layers.conv_transpose,
        layers.dequantize,
        layers.instance_norm,
        layers.l2_norm,
        layers.layer_norm,
        layers.linear,
        layers.local_response_norm,
        layers.matmul,
        layers.max_pool,
        layers.quantize,
        layers.resize_bilinear,
        layers.resize_nearest_neighbor,
        layers.scaled_dot_product_attention,
        layers.upsample_bilinear,
        layers.upsample_nearest_neighbor,
    )
}

OPERATORS: dict[str, Callable[..., Result]] = {
    **ACTIVATIONS,
    **ELEMENTWISE,
    **REDUCTIONS,
    **SHAPES,
    **LAYERS,
    "einsum": lambda values, equation: torch.einsum(equation, *values),
}

LISTS = {"concat": "values", "einsum": "values", "stack": "values"}
"""The parameter of an operator that takes several tensors."""
