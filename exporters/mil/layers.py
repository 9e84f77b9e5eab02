"""The operators of a layer (convolution, pooling, normalization, resizing, quantization) on torch, in float32.

Parameters have the names, orders and defaults of coremltools' operator definitions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from exporters.artifact import NotInterpretedError

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
MAX_POOLS = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE_POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def integers(value: Tensor | None, default: Sequence[int] = ()) -> list[int]:
    """The integers of a tensor, or the default."""
    return [*default] if value is None else [int(number) for number in value.reshape(-1)]


def padding(
    pad_type: str, pad: Tensor | None, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis; `kernel` are its sizes with the holes of dilation."""
    if pad_type == "custom":
        flat = integers(pad, [0, 0] * len(kernel))
        return list(zip(flat[::2], flat[1::2], strict=True))
    if pad_type == "valid":
        return [(0, 0)] * len(kernel)
    if pad_type not in ("same", "same_lower"):
        raise NotInterpretedError(
            f"there is no padding {pad_type!r} (valid, custom, same, same_lower); report this as a bug"
        )
    found = []
    for size, window, stride in zip(sizes, kernel, strides, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + window - size)
        less, more = total // 2, total - total // 2
        found.append((less, more) if pad_type == "same" else (more, less))
    return found


def padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """`x` with constants around its last axes; torch takes them from the last axis on."""
    flat = [number for pair in reversed(pads) for number in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    axes = x.dim() - 2
    steps, holes = integers(strides, [1] * axes), integers(dilations, [1] * axes)
    window = [(size - 1) * hole + 1 for size, hole in zip(weight.shape[2:], holes, strict=True)]
    x = padded(x, padding(pad_type, pad, x.shape[2:], window, steps))
    return CONVOLUTIONS[axes](x, weight, bias, steps, 0, holes, integers(groups, [1])[0])


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """Padding takes away from the full output; `output_shape` may ask for more after it, which is the bias alone."""
    axes = x.dim() - 2
    if pad_type not in ("valid", "custom"):
        raise NotInterpretedError(f"conv_transpose with padding {pad_type!r} has no output of its own; run it on a Mac")
    steps, holes = integers(strides, [1] * axes), integers(dilations, [1] * axes)
    full = TRANSPOSED[axes](x, weight, None, steps, 0, 0, integers(groups, [1])[0], holes)
    pads = padding(pad_type, pad, (), [1] * axes, ())
    sizes = [size - before - after for size, (before, after) in zip(full.shape[2:], pads, strict=True)]
    wanted = sizes if output_shape is None else integers(output_shape)[2:]
    for axis, ((before, _), size) in enumerate(zip(pads, wanted, strict=True), start=2):
        full = full.narrow(axis, before, min(size, full.shape[axis] - before))
    full = padded(full, [(0, size - have) for size, have in zip(wanted, full.shape[2:], strict=True)])
    return full if bias is None else full + bias.reshape(-1, *[1] * axes)


def _windows(
    x: Tensor, kernel: Sequence[int], steps: Sequence[int], pads: Sequence[tuple[int, int]], ceil_mode: bool
) -> list[tuple[int, int]]:
    """The padding with what the last window overhangs, where the number of windows is rounded up."""
    found = []
    for size, window, stride, (before, after) in zip(x.shape[2:], kernel, steps, pads, strict=True):
        room = size + before + after - window
        count = (-(-room // stride) if ceil_mode else room // stride) + 1
        if ceil_mode and (count - 1) * stride >= size + before and before + after > 0:
            count -= 1
        found.append((before, max(after, (count - 1) * stride + window - size - before)))
    return found


def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Tensor:
    axes, kernel = x.dim() - 2, integers(kernel_sizes)
    steps = integers(strides, [1] * axes)
    pads = padding(pad_type, pad, x.shape[2:], kernel, steps)
    x = padded(x, _windows(x, kernel, steps, pads, bool(ceil_mode)), -math.inf)
    return MAX_POOLS[axes](x, kernel, steps)


def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
    exclude_padding_from_average: Tensor | None = None,
) -> Tensor:
    """Padding counts in the average unless it is excluded; what a window overhangs beyond the padding never does."""
    axes, kernel = x.dim() - 2, integers(kernel_sizes)
    steps = integers(strides, [1] * axes)
    pads = padding(pad_type, pad, x.shape[2:], kernel, steps)
    whole = _windows(x, kernel, steps, pads, bool(ceil_mode))
    average = AVERAGE_POOLS[axes](padded(x, whole), kernel, steps)
    counted = torch.ones_like(x[:1, :1])
    if not exclude_padding_from_average:
        counted = padded(counted, pads, 1.0)
        whole = [(0, after - own) for (_, after), (_, own) in zip(whole, pads, strict=True)]
    return average / AVERAGE_POOLS[axes](padded(counted, whole), kernel, steps)


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float | Tensor = 1e-5,
) -> Tensor:
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=float(epsilon))


def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float | Tensor = 1e-5
) -> Tensor:
    return functional.instance_norm(x, weight=gamma, bias=beta, eps=float(epsilon))


def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float | Tensor = 1e-5,
) -> Tensor:
    over = sorted(axis % x.dim() for axis in integers(axes, range(x.dim())))
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    variance, mean = torch.var_mean(x, dim=over, unbiased=False, keepdim=True)
    x = (x - mean) * torch.rsqrt(variance + float(epsilon))
    x = x if gamma is None else x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


def local_response_norm(
    x: Tensor,
    size: Tensor,
    alpha: float | Tensor = 1e-4,
    beta: float | Tensor = 0.75,
    k: float | Tensor = 1.0,
) -> Tensor:
    return functional.local_response_norm(x, int(size), float(alpha), float(beta), float(k))


def l2_norm(x: Tensor, epsilon: float | Tensor = 1e-6) -> Tensor:
    """`x` over the length of its last three axes."""
    return x * torch.rsqrt(x.square().sum(dim=(-3, -2, -1), keepdim=True) + float(epsilon))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | bool = False, transpose_y: Tensor | bool = False) -> Tensor:
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, attn_mask)


# ---- resizing ----------------------------------------------------------------------------------------------------


def grid(mode: str, size: int, wanted: int) -> Tensor:
    """The places on an axis of `size` pixels at which a resized axis of `wanted` is sampled."""
    index = torch.arange(wanted, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        places = index * ((size - 1) / max(wanted - 1, 1))
        if mode == "ALIGN_CORNERS" and wanted == 1:
            places = places + (size - 1) / 2
    elif mode == "DEFAULT":
        places = index * (size / wanted)
    elif mode == "OFFSET_CORNERS":
        places = (index + 0.5) * (max(1, size - 1) / wanted)
    elif mode == "UNALIGN_CORNERS":
        places = (index + 0.5) * (size / wanted) - 0.5
    else:
        raise NotInterpretedError(f"there is no sampling mode {mode!r} of a resize; run the package on a Mac")
    return places.clamp(0, size - 1)


def resized(x: Tensor, wanted: Sequence[int], mode: str, nearest: bool = False) -> Tensor:
    """`x` with its last axes sampled anew, linearly between two pixels or at the nearest one before."""
    for axis, size in enumerate(wanted, start=x.dim() - len(wanted)):
        places = grid(mode, x.shape[axis], size)
        before = places.floor().long()
        if nearest:
            x = x.index_select(axis, before)
            continue
        after = (before + 1).clamp(max=x.shape[axis] - 1)
        weight = (places - before).float().reshape(-1, *[1] * (x.dim() - 1 - axis))
        x = x.index_select(axis, before) * (1 - weight) + x.index_select(axis, after) * weight
    return x


def scaled_sizes(x: Tensor, height: float | Tensor, width: float | Tensor) -> tuple[int, int]:
    return math.floor(float(height) * x.shape[-2]), math.floor(float(width) * x.shape[-1])


def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: float | Tensor = 1, scale_factor_width: float | Tensor = 1
) -> Tensor:
    return resized(x, scaled_sizes(x, scale_factor_height, scale_factor_width), "DEFAULT", nearest=True)


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float | Tensor = 1,
    scale_factor_width: float | Tensor = 1,
    align_corners: Tensor | bool = True,
    half_pixel_centers: Tensor | bool | None = None,
) -> Tensor:
    if half_pixel_centers is None:
        half_pixel_centers = not align_corners
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half_pixel_centers else "DEFAULT"
    return resized(x, scaled_sizes(x, scale_factor_height, scale_factor_width), mode)


def resize_bilinear(
    x: Tensor, target_size_height: Tensor, target_size_width: Tensor, sampling_mode: str = "DEFAULT"
) -> Tensor:
    return resized(x, (int(target_size_height), int(target_size_width)), sampling_mode)


def resize_nearest_neighbor(x: Tensor, target_size_height: Tensor, target_size_width: Tensor) -> Tensor:
    return resized(x, (int(target_size_height), int(target_size_width)), "DEFAULT", nearest=True)


# ---- quantization ------------------------------------------------------------------------------------------------


def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    low, high = {"int8": (-128, 127), "uint8": (0, 255)}[output_dtype]
    codes = torch.round(input / along(scale, input, axis))
    return (codes if zero_point is None else codes + along(zero_point, input, axis)).clamp(low, high)


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    codes = input.float()
    return along(scale, input, axis) * (codes if zero_point is None else codes - along(zero_point, input, axis))


def along(values: Tensor, x: Tensor, axis: Tensor | None) -> Tensor:
    """One value, or one for each index of `axis`, in a shape that `x` broadcasts with."""
    shape = [1] * x.dim()
    if values.dim():
        shape[0 if axis is None else int(axis)] = -1
    return values.float().reshape(shape)
