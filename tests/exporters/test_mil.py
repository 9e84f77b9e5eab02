"""The interpreter of ML programs: operator by operator against coremltools' own reference values, or numpy where it has
none, and whole packages."""

import re
import shutil
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from exporter_networks import images, small_network
from numpy.lib.stride_tricks import sliding_window_view

from exporters import parity
from exporters.artifact import ExportError, NotInterpretedError
from exporters.capture import capture
from exporters.mil import interpreter
from exporters.mil.compressed import DECODERS
from exporters.mil.operators import OPERATORS
from exporters.mil.program import TensorType, read
from exporters.toolkits import quiet
from exporters.writers import to_coreml

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 4, 5, 6)).astype(np.float32) * 2
POSITIVE = np.abs(X) + 0.25
SMALL = np.tanh(X) * 0.9
COUNTS = np.arange(24, dtype=np.int32).reshape(2, 3, 4) - 7
CHANNEL = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
BOOLEANS = X > 0
STEPS_OF_FOUR = np.array([1, 1, 2, 3], np.int32)
KERNEL = RANDOM.normal(size=(6, 2, 3, 2)).astype(np.float32)
TRANSPOSED = RANDOM.normal(size=(4, 3, 3, 2)).astype(np.float32)


def numbers(*values):
    return np.array(values, np.int32)


def windows(x, kernel, strides=(1, 1), pads=(0, 0, 0, 0), value=0.0):
    """(N, C, H', W', Dh, Dw): the windows that a kernel sees."""
    x = np.pad(x, [(0, 0), (0, 0), pads[:2], pads[2:]], constant_values=value)
    return sliding_window_view(x, kernel, axis=(2, 3))[:, :, :: strides[0], :: strides[1]]


def convolved(x, weight, groups, strides, pads, dilations):
    window = [(size - 1) * hole + 1 for size, hole in zip(weight.shape[2:], dilations, strict=True)]
    spread = np.zeros((*weight.shape[:2], *window))
    spread[:, :, :: dilations[0], :: dilations[1]] = weight
    parts = [
        np.einsum("nchwij,ocij->nohw", windows(own, spread.shape[2:], strides, pads), kernels)
        for own, kernels in zip(np.split(x, groups, 1), np.split(spread, groups, 0), strict=True)
    ]
    return np.concatenate(parts, 1)


def spread_out(x, weight, strides):
    """A transposed convolution without padding: each pixel adds its kernel."""
    (count, _, height, width), (_, outputs, *window) = x.shape, weight.shape
    found = np.zeros((count, outputs, (height - 1) * strides[0] + window[0], (width - 1) * strides[1] + window[1]))
    for row in range(height):
        for column in range(width):
            top, left = row * strides[0], column * strides[1]
            part = np.einsum("nc,coij->noij", x[:, :, row, column], weight)
            found[:, :, top : top + window[0], left : left + window[1]] += part
    return found


def sampled(x, places, axis):
    return np.apply_along_axis(lambda line: np.interp(places, np.arange(len(line)), line), axis, x)


def normalized(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def channelwise(values):
    return values[None, :, None, None]


PLAIN = (
    "abs", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "identity", "relu", "relu6", "round", "sigmoid",
    "sign", "sin", "sinh", "softmax", "softplus", "softsign", "square", "tan", "tanh",
)  # fmt: skip
UNARY = (
    *((name, {"x": X}) for name in PLAIN),
    *((name, {"x": SMALL}) for name in ("acos", "asin", "atan", "atanh")),
    *((name, {"x": POSITIVE}) for name in ("inverse", "log", "rsqrt", "sqrt")),
    ("logical_not", {"x": BOOLEANS}),
    ("abs", {"x": COUNTS}),
)  # fmt: skip
BINARY = (
    *((name, {"x": X, "y": X[:, ::-1].copy()}) for name in (
        "add", "equal", "floor_div", "greater", "greater_equal", "less", "less_equal", "maximum", "minimum", "mod",
        "mul", "not_equal", "real_div", "sub",
    )),
    *((name, {"x": COUNTS, "y": numbers(3, -2, 5, 7)}) for name in ("add", "floor_div", "mod", "equal", "mul")),
    ("pow", {"x": POSITIVE, "y": np.float32(1.5)}),
    *((name, {"x": BOOLEANS, "y": BOOLEANS[::-1].copy()}) for name in ("logical_and", "logical_or", "logical_xor")),
)  # fmt: skip
ACTIVATIONS = (
    ("clamped_relu", {"x": X, "alpha": np.float32(0.3), "beta": np.float32(1.5)}),
    ("clip", {"x": X, "alpha": np.float32(-0.5), "beta": np.float32(1.5)}),
    ("elu", {"x": X, "alpha": np.float32(0.7)}),
    *(("gelu", {"x": X, "mode": mode}) for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")),
    ("leaky_relu", {"x": X, "alpha": np.float32(0.1)}),
    ("linear_activation", {"x": X, "alpha": np.float32(0.3), "beta": np.float32(-2)}),
    ("prelu", {"x": X, "alpha": CHANNEL}),
    ("scaled_tanh", {"x": X, "alpha": np.float32(1.7), "beta": np.float32(0.6)}),
    ("sigmoid_hard", {"x": X, "alpha": np.float32(0.2), "beta": np.float32(0.5)}),
    ("softmax", {"x": X, "axis": np.int32(1)}),
    ("softplus_parametric", {"x": X, "alpha": CHANNEL, "beta": np.abs(CHANNEL)}),
    ("threshold", {"x": X, "alpha": np.float32(0.25)}),
    ("thresholded_relu", {"x": X, "alpha": np.float32(0.75)}),
)
REDUCTIONS = (
    *((f"reduce_{name}", {"x": X, "axes": numbers(-1, 1), "keep_dims": keep}) for keep in (True, False) for name in (
        "l1_norm", "l2_norm", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square",
    )),
    ("reduce_log_sum", {"x": POSITIVE, "axes": numbers(2)}),
    ("reduce_sum", {"x": X}),
    ("reduce_argmax", {"x": X, "axis": np.int32(1)}),
    ("reduce_argmin", {"x": X, "axis": np.int32(-1), "keep_dims": True}),
)  # fmt: skip
SHAPES = (
    ("argsort", {"x": X, "axis": np.int32(2)}),
    ("argsort", {"x": X, "ascending": True}),
    ("cast", {"x": X, "dtype": "int32"}),
    ("cast", {"x": COUNTS, "dtype": "bool"}),
    ("concat", {"values": (X, POSITIVE), "axis": np.int32(1)}),
    ("cumsum", {"x": X, "axis": np.int32(1)}),
    ("cumsum", {"x": X, "axis": np.int32(2), "reverse": True}),
    ("expand_dims", {"x": COUNTS, "axes": numbers(0, -1)}),
    ("expand_dims", {"x": COUNTS, "axes": numbers(3, 1)}),
    ("fill", {"shape": numbers(2, 3), "value": np.float32(0.5)}),
    ("flatten2d", {"x": X, "axis": np.int32(2)}),
    ("gather", {"x": X, "indices": numbers(3, 0, -1), "axis": np.int32(1)}),
    ("gather", {"x": X, "indices": np.array([[1, 0], [4, -2]], np.int32), "axis": np.int32(2)}),
    ("gather", {"x": X, "indices": np.array([[1], [3]], np.int32), "axis": np.int32(1), "batch_dims": np.int32(1)}),
    ("gather_along_axis", {"x": COUNTS, "indices": np.array([[[1, 0, 2, 1]], [[0, 2, 2, 1]]], np.int32), "axis": 1}),
    ("layer_norm", {"x": X, "axes": numbers(-1), "gamma": X[0, 0, 0], "beta": X[1, 1, 1], "epsilon": np.float32(1e-3)}),
    ("layer_norm", {"x": X, "axes": numbers(1, 2, 3)}),
    ("l2_norm", {"x": X}),
    ("linear", {"x": X[0, 0], "weight": X[1, 0], "bias": X[0, 0, :, 0].copy()}),
    ("matmul", {"x": X, "y": X, "transpose_y": True}),
    ("matmul", {"x": X, "y": X, "transpose_x": True}),
    ("pad", {"x": X, "pad": numbers(1, 2, 0, 3), "constant_val": np.float32(1.5)}),
    ("pad", {"x": X, "pad": numbers(1, 0, 2, 1, 1, 3), "mode": "reflect"}),
    ("pad", {"x": X, "pad": numbers(2, 1), "mode": "replicate"}),
    ("quantize", {"input": X, "scale": np.float32(0.02), "zero_point": np.uint8(100), "output_dtype": "uint8"}),
    ("quantize", {"input": X, "scale": np.abs(CHANNEL) / 50, "axis": np.int32(1), "output_dtype": "int8"}),
    ("range_1d", {"start": np.int32(2), "end": np.int32(11), "step": np.int32(3)}),
    ("reshape", {"x": X, "shape": numbers(0, -1, 5, 0)}),
    ("reverse", {"x": COUNTS, "axes": numbers(0, 2)}),
    ("reverse", {"x": COUNTS}),
    ("scaled_dot_product_attention", {"query": X[0], "key": POSITIVE[0], "value": SMALL[0]}),
    ("select", {"cond": BOOLEANS, "a": X, "b": POSITIVE}),
    ("shape", {"x": X}),
    ("slice_by_index", {"x": X, "begin": numbers(0, -3, 1, 0), "end": numbers(2, -1, 5, 6), "stride": STEPS_OF_FOUR}),
    (
        "slice_by_index",
        {
            "x": X, "begin": numbers(1, 0, 4, 2), "end": numbers(0, 0, 0, 0), "stride": numbers(1, 1, -2, 1),
            "begin_mask": np.array([False, True, False, False]), "end_mask": np.array([False, True, True, False]),
            "squeeze_mask": np.array([True, False, False, True]),
        },
    ),
    ("slice_by_size", {"x": COUNTS, "begin": numbers(0, 1, -3), "size": numbers(2, -1, 2)}),
    ("split", {"x": X, "split_sizes": numbers(1, 3), "axis": np.int32(1)}),
    ("split", {"x": X, "num_splits": np.int32(3), "axis": np.int32(-1)}),
    ("squeeze", {"x": X[:1, :, :1], "axes": numbers(-2)}),
    ("squeeze", {"x": X[:1, :, :1]}),
    ("stack", {"values": (X, POSITIVE), "axis": np.int32(2)}),
    ("tile", {"x": COUNTS, "reps": numbers(2, 1, 3)}),
    ("topk", {"x": X, "k": np.int32(2), "axis": np.int32(1)}),
    ("topk", {"x": X, "k": np.int32(3), "ascending": True}),
    ("transpose", {"x": X, "perm": numbers(0, 2, -1, 1)}),
)  # fmt: skip
COREMLTOOLS = (*UNARY, *BINARY, *ACTIVATIONS, *REDUCTIONS, *SHAPES)
"""Operators and arguments; coremltools computes the value."""

STEPS, HOLES = numbers(2, 1), numbers(1, 2)
PADDED = {"pad_type": "custom", "pad": numbers(1, 2, 0, 1)}
BOTH = {"pad_type": "custom", "pad": numbers(1, 1, 1, 1)}
POOL = {"x": X, "kernel_sizes": numbers(3, 2), "strides": numbers(2, 2)}
SQUARED = np.pad(X**2, [(0, 0), (1, 1), (0, 0), (0, 0)])
INSIDE = windows(np.ones_like(X), (3, 2), (2, 2), (1, 1, 1, 1)).sum((-1, -2))
NUMPY = (
    ("conv", {"x": X, "weight": KERNEL, "groups": np.int32(2), "strides": STEPS, "dilations": HOLES, **PADDED},
     convolved(X, KERNEL, 2, (2, 1), (1, 2, 0, 1), (1, 2))),
    ("conv", {"x": X[:, :2], "weight": KERNEL, "bias": KERNEL[:, 0, 0, 0].copy(), "pad_type": "same"},
     convolved(X[:, :2], KERNEL, 1, (1, 1), (1, 1, 0, 1), (1, 1)) + channelwise(KERNEL[:, 0, 0, 0])),
    ("conv", {"x": X[:, :2], "weight": KERNEL, "strides": numbers(2, 3), "pad_type": "same_lower"},
     convolved(X[:, :2], KERNEL, 1, (2, 3), (1, 1, 0, 0), (1, 1))),
    ("conv", {"x": X[:, :2, :, 0].copy(), "weight": KERNEL[..., 0].copy()},
     convolved(X[:, :2, :, :1], KERNEL[..., :1], 1, (1, 1), (0, 0, 0, 0), (1, 1))[..., 0]),
    ("conv_transpose", {"x": X, "weight": TRANSPOSED, "strides": STEPS, "bias": CHANNEL[:3]},
     spread_out(X, TRANSPOSED, (2, 1)) + channelwise(CHANNEL[:3])),
    ("conv_transpose", {"x": X, "weight": TRANSPOSED, "strides": STEPS, **PADDED},
     spread_out(X, TRANSPOSED, (2, 1))[:, :, 1:-2, :-1]),
    ("conv_transpose", {"x": X, "weight": TRANSPOSED, "strides": STEPS, "output_shape": numbers(2, 3, 12, 7), **BOTH},
     np.pad(spread_out(X, TRANSPOSED, (2, 1)), [(0, 0), (0, 0), (0, 2), (0, 1)])[:, :, 1:13, 1:8]),
    ("max_pool", {**POOL, **BOTH}, windows(X, (3, 2), (2, 2), (1, 1, 1, 1), -np.inf).max((-1, -2))),
    ("max_pool", {**POOL, "pad_type": "same"}, windows(X, (3, 2), (2, 2), (1, 1, 0, 0), -np.inf).max((-1, -2))),
    ("max_pool", {"x": X, "kernel_sizes": numbers(2, 4), "strides": STEPS, "pad_type": "valid", "ceil_mode": True},
     windows(X, (2, 4), (2, 1), (0, 1, 0, 0), -np.inf).max((-1, -2))),
    ("avg_pool", {**POOL, **BOTH}, windows(X, (3, 2), (2, 2), (1, 1, 1, 1)).mean((-1, -2))),
    ("avg_pool", {**POOL, **BOTH, "exclude_padding_from_average": True},
     windows(X, (3, 2), (2, 2), (1, 1, 1, 1)).sum((-1, -2)) / INSIDE),
    ("avg_pool", {"x": X, "kernel_sizes": numbers(2, 4), "strides": STEPS, "pad_type": "valid", "ceil_mode": True},
     windows(X, (2, 4), (2, 1), (0, 1, 0, 0)).sum((-1, -2)) / np.array([8, 8, 4])[:, None]),
    ("batch_norm", {"x": X, "mean": CHANNEL, "variance": np.abs(CHANNEL), "gamma": CHANNEL[::-1].copy(),
                    "beta": CHANNEL, "epsilon": np.float32(1e-2)},
     channelwise(CHANNEL[::-1] / np.sqrt(np.abs(CHANNEL) + 1e-2)) * (X - channelwise(CHANNEL)) + channelwise(CHANNEL)),
    ("instance_norm", {"x": X, "gamma": CHANNEL, "beta": CHANNEL},
     normalized(X, (2, 3)) * channelwise(CHANNEL) + channelwise(CHANNEL)),
    ("local_response_norm", {"x": X, "size": np.int32(3), "alpha": np.float32(0.5), "k": np.float32(2)},
     X / (2 + 0.5 / 3 * (SQUARED[:, :-2] + SQUARED[:, 1:-1] + SQUARED[:, 2:])) ** 0.75),
    ("pixel_shuffle", {"x": X, "upscale_factor": np.int32(2)},
     X.reshape(2, 1, 2, 2, 5, 6).transpose(0, 1, 4, 2, 5, 3).reshape(2, 1, 10, 12)),
    ("pixel_unshuffle", {"x": X[:, :, :4], "downscale_factor": np.uint32(2)},
     X[:, :, :4].reshape(2, 4, 2, 2, 3, 2).transpose(0, 1, 3, 5, 2, 4).reshape(2, 16, 2, 3)),
    ("silu", {"x": X}, X / (1 + np.exp(-X))),
    ("concat", {"values": (X, POSITIVE), "axis": np.int32(1), "interleave": True},
     np.stack([X, POSITIVE], 2).reshape(2, 8, 5, 6)),
    ("dequantize", {"input": COUNTS.astype(np.int8), "scale": np.float32(0.5), "zero_point": np.int8(-3)},
     0.5 * (COUNTS + 3)),
    ("dequantize", {"input": COUNTS.astype(np.int8), "scale": CHANNEL, "axis": np.int32(2)}, CHANNEL * COUNTS),
    ("einsum", {"values": (X, X.transpose(0, 3, 2, 1).copy()), "equation": "nchw,nwhu->nchu"},
     np.einsum("nchw,nuhw->nchu", X, X)),
    ("upsample_nearest_neighbor", {"x": X, "scale_factor_height": np.int32(2), "scale_factor_width": np.int32(3)},
     X.repeat(2, 2).repeat(3, 3)),
    ("resize_nearest_neighbor", {"x": X, "target_size_height": np.int32(10), "target_size_width": np.int32(3)},
     X.repeat(2, 2)[..., ::2]),
    ("upsample_bilinear", {"x": X, "scale_factor_height": np.int32(2), "scale_factor_width": np.int32(1)},
     sampled(X, np.linspace(0, 4, 10), 2)),
    ("upsample_bilinear", {"x": X, "scale_factor_height": np.int32(3), "align_corners": False},
     sampled(X, np.clip(np.arange(15) / 3 + 1 / 6 - 0.5, 0, 4), 2)),
    *(("resize_bilinear", {"x": X, "target_size_height": np.int32(5), "target_size_width": np.int32(4),
                           "sampling_mode": mode}, sampled(X, np.array(places), 3))
      for mode, places in (("DEFAULT", [0, 1.5, 3, 4.5]), ("STRICT_ALIGN_CORNERS", [0, 5 / 3, 10 / 3, 5]),
                           ("UNALIGN_CORNERS", [0.25, 1.75, 3.25, 4.75]))),
    ("resize_bilinear", {"x": X[..., :1, :], "target_size_height": np.int32(1), "target_size_width": np.int32(4),
                         "sampling_mode": "OFFSET_CORNERS"},
     sampled(X[..., :1, :], np.array([0.625, 1.875, 3.125, 4.375]), 3)),
    ("resize_bilinear", {"x": X, "target_size_height": np.int32(5), "target_size_width": np.int32(1),
                         "sampling_mode": "ALIGN_CORNERS"}, sampled(X, np.array([2.5]), 3)),
)  # fmt: skip
"""Operators and arguments of which coremltools knows the output's shape alone, and the value."""


@pytest.fixture(scope="module")
def builder():
    """coremltools' builder of programs, inside a function: each call checks its arguments and computes the value."""
    with quiet():
        import coremltools
        from coremltools.converters.mil.mil import Builder, Function

        with Function({}, opset_version=coremltools.target.iOS18):
            yield Builder


def interpreted(operator, arguments):
    given = {
        name: [torch.from_numpy(each) for each in value] if isinstance(value, tuple)
        else interpreter.value_of(value if isinstance(value, str) else np.asarray(value))
        for name, value in arguments.items()
    }  # fmt: skip
    result = OPERATORS[operator](**given)
    return [result] if isinstance(result, torch.Tensor) else result


ROWS = [(*row, None) for row in COREMLTOOLS] + list(NUMPY)


@pytest.mark.parametrize(
    ("operator", "arguments", "expected"), ROWS, ids=[f"{i}-{row[0]}" for i, row in enumerate(ROWS)]
)
def test_an_operator_gives_the_reference_value_and_its_shape(operator, arguments, expected, builder):
    with quiet():
        made = getattr(builder, operator)(**deepcopy(arguments))  # some of its operators write into their arguments
    made = made if isinstance(made, list | tuple) else [made]
    found = interpreted(operator, arguments)
    assert len(found) == len(made)
    for tensor, reference in zip(found, made, strict=True):
        assert tuple(tensor.shape) == tuple(int(size) for size in reference.shape)
        value = reference.val if expected is None else expected
        assert value is not None, "coremltools computes no value here; write it with numpy"
        given = tensor.numpy().astype(np.asarray(reference.val).dtype) if operator == "cast" else tensor.numpy()
        np.testing.assert_allclose(given, value, rtol=2e-5, atol=2e-5)


def test_every_operator_has_a_row():
    assert {row[0] for row in ROWS} == OPERATORS.keys()


def test_an_exclusive_sum_begins_at_nothing():
    """Of which coremltools' builder computes nothing: its reference fails."""
    found = OPERATORS["cumsum"](torch.tensor([3.0, 4, 5]), exclusive=torch.tensor(True))
    assert found.tolist() == [0, 3, 7]


@pytest.mark.parametrize(
    ("operator", "arguments", "text"),
    [
        ("conv", {"x": X, "weight": KERNEL, "pad_type": "full"}, "there is no padding 'full' .valid, custom, same"),
        (
            "conv_transpose",
            {"x": X, "weight": TRANSPOSED, "pad_type": "same"},
            "with padding 'same' has no output of its own",
        ),
        (
            "resize_bilinear",
            {"x": X, "target_size_height": np.int32(2), "target_size_width": np.int32(2), "sampling_mode": "ODD"},
            "there is no sampling mode 'ODD' of a resize; run the package on a Mac",
        ),
    ],
)
def test_a_form_that_is_not_defined_is_named(operator, arguments, text):
    with pytest.raises(NotInterpretedError, match=text):
        interpreted(operator, arguments)


NIBBLES = np.arange(48).reshape(6, 8) * 7 % 16
HALVES = (RANDOM.normal(size=64) * 3).astype(np.float16)
BITS = np.array([0b10110100, 0b01101110], np.uint8)
CODES = np.arange(48, dtype=np.int8).reshape(6, 8) - 20
IOS16 = (
    (
        "affine_dequantize",
        {"quantized_data": CODES, "zero_point": np.int8(-3), "scale": HALVES[0], "axis": np.int32(0)},
    ),
    (
        "affine_dequantize",
        {"quantized_data": CODES, "zero_point": CODES[1], "scale": HALVES[:8], "axis": np.int32(-1)},
    ),
    ("cast", {"source_val": HALVES, "output_dtype": "fp32"}),
    ("lut_to_dense", {"indices": BITS, "lut": HALVES[:4], "shape": np.array([2, 4], np.uint32)}),
    (
        "lut_to_dense",
        {"indices": np.arange(5, dtype=np.uint8) * 50, "lut": HALVES, "shape": np.array([2, 3], np.uint32)},
    ),
    ("sparse_to_dense", {"nonzero_data": HALVES[:9], "mask": BITS, "shape": np.array([4, 4], np.uint32)}),
)
IOS18 = (
    ("blockwise_shift_scale", {"data": CODES, "scale": HALVES[:8].reshape(2, 4)}),
    ("blockwise_shift_scale", {"data": "int4", "scale": HALVES[:6].reshape(6, 1), "offset": "int4"}),
    ("blockwise_shift_scale", {"data": CODES, "scale": HALVES[:1].reshape(1, 1), "offset": HALVES[3:4].reshape(1, 1)}),
    ("lut_to_dense", {"indices": "uint4", "lut": HALVES.reshape(2, 2, 16, 1)}),
    ("lut_to_dense", {"indices": "uint4", "lut": HALVES.reshape(1, 2, 16, 2), "vector_axis": np.int32(0)}),
    ("lut_to_dense", {"indices": "uint4", "lut": HALVES.reshape(1, 1, 16, 4), "vector_axis": np.int32(-1)}),
    ("sparse_to_dense", {"nonzero_data": HALVES[:32], "mask": "uint1"}),
)
DECODED = [(16, *row) for row in IOS16] + [(18, *row) for row in IOS18]


def with_sub_bytes(arguments):
    """Text stands for numbers of less than a byte, which coremltools wants in types of its own."""
    from coremltools.converters.mil.mil import types

    numbers = {
        ("data", "int4"): lambda: (NIBBLES - 8).astype(types.np_int4_dtype),
        ("offset", "int4"): lambda: (NIBBLES[:, :1] - 8).astype(types.np_int4_dtype),
        ("indices", "uint4"): lambda: NIBBLES.astype(types.np_uint4_dtype),
        ("mask", "uint1"): lambda: np.indices((8, 8)).sum(0).astype(types.np_uint1_dtype) % 2,
    }
    return {
        name: numbers[name, value]() if (name, str(value)) in numbers else value for name, value in arguments.items()
    }


@pytest.mark.parametrize(("ios", "decoder", "arguments"), DECODED, ids=[f"{row[0]}-{row[1]}" for row in DECODED])
def test_a_compressed_weight_is_decoded_exactly(ios, decoder, arguments, tmp_path):
    """Each by coremltools' own decoder, and read out of a package where it is stored."""
    with quiet():
        import coremltools
        from coremltools.converters.mil.mil import Builder

        target, kept = getattr(coremltools.target, f"iOS{ios}"), []

        @Builder.program(input_specs=[Builder.TensorSpec((1, 1))], opset_version=target)
        def program(x):
            weight = getattr(Builder, f"constexpr_{decoder}")(**with_sub_bytes(arguments))
            kept.append(weight.op.materialized_val_inference())
            shown = Builder.cast(x=weight, dtype="fp32") if kept[0].dtype == np.float16 else weight
            return Builder.add(x=Builder.reshape(x=shown, shape=[1, -1]), y=x, name="logits")

        package = tmp_path / "x.mlpackage"
        coremltools.convert(
            program, minimum_deployment_target=target, compute_precision=coremltools.precision.FLOAT32,
            skip_model_load=True,
        ).save(str(package))  # fmt: skip
    found = interpreter.load(package)(np.zeros((1, 1), np.float32))
    assert f"constexpr_{decoder}" in {operation.operator for operation in read(package).operations}
    assert np.array_equal(found.reshape(kept[0].shape), kept[0].astype(np.float32))


def test_every_decoder_has_a_row():
    assert {f"constexpr_{row[1]}" for row in DECODED} | {"const"} == DECODERS.keys()


# ---- whole packages ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("mil") / "x.mlpackage"
    to_coreml.export(capture(small_network(), images()), path)
    return path


@pytest.fixture
def altered(package, tmp_path):
    """altered(change) is a copy of the package, its specification changed by that function."""

    def copy(change):
        path = tmp_path / package.name
        shutil.copytree(package, path)
        (file,) = path.rglob("*.mlmodel")
        with quiet():
            import coremltools

            spec = coremltools.utils.load_spec(str(path))
        changed = change(spec) or spec
        file.write_bytes(changed.SerializeToString())
        return path

    return copy


def block_of(spec):
    main = spec.mlProgram.functions["main"]
    return main.block_specializations[main.opset]


def rename(spec):
    for operation in block_of(spec).operations:
        operation.type = {"relu": "swish", "conv": "conv_quantized"}.get(operation.type, operation.type)


def add_parameter(spec):
    for operation in block_of(spec).operations:
        if operation.type == "linear":
            operation.inputs["slope"].CopyFrom(operation.inputs["bias"])


def add_list(spec):
    block_of(spec).operations[0].attributes["labels"].type.listType.SetInParent()


def add_input(spec):
    inputs = spec.mlProgram.functions["main"].inputs
    other = type(inputs[0])()
    other.CopyFrom(inputs[0])
    other.name = "other"
    inputs.append(other)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (rename, r"the interpreter has no operator conv_quantized, swish of x.mlpackage; run the package on a Mac$"),
        (add_parameter, r"the interpreter has no operator linear\(slope\) of x.mlpackage"),
        (add_list, "knows constants that are tensors, and this program has a listType; run the package on a Mac"),
        (add_input, "the interpreter takes one input, and x.mlpackage has 2; run it on a Mac"),
    ],
)
def test_what_the_interpreter_lacks_is_named_and_the_file_is_not_executed(altered, change, text):
    path = altered(change)
    with pytest.raises(NotInterpretedError, match=text):
        interpreter.load(path)
    if sys.platform != "darwin":
        found = parity.check(path, "mlpackage", images().numpy(), np.zeros((5, 10), np.float32), inspected="all held")
        assert not found.executed
        assert re.search(f"^not executed on this system: .*{text.rstrip('$')}.*; all held$", found.note)


def test_another_kind_of_model_is_refused(altered):
    def replaced(spec):
        other = type(spec)()
        other.identity.SetInParent()
        return other

    with pytest.raises(
        ExportError, match=r"x.mlpackage is a model of type identity, not an ML program; convert it anew"
    ):
        read(altered(replaced))


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        ("float16", [1 / 3, 70000.0, 2049.0], [0.333251953125, np.inf, 2048.0]),
        ("float32", [1 / 3, 70000.0, 2049.0], np.array([1 / 3, 70000.0, 2049.0], np.float32).tolist()),
        ("int32", [-1.7, 2.9, 3.0], [-1, 2, 3]),
        ("bool", [0.0, 0.5, -1.0], [False, True, True]),
    ],
)
def test_a_result_is_rounded_to_the_declared_type(dtype, given, expected):
    assert interpreter.declared(torch.tensor(given), TensorType(dtype, (3,))).tolist() == expected
    with pytest.raises(ExportError, match=r"relu gives \(3,\) where the package declares \(4,\); report this as a bug"):
        interpreter.declared(torch.tensor(given), TensorType(dtype, (4,)), "relu")


@pytest.mark.skipif(sys.platform == "darwin", reason="on macOS Core ML runs the package")
def test_the_logits_of_an_interpreted_package_are_those_of_the_module_and_marked(package):
    module, own = small_network(), images().numpy()
    reference = parity.logits_of(module, own)
    found = parity.check(package, "mlpackage", own, reference, inspected="7 of 7 weights match")
    assert found.executed
    assert found.cosine > 0.99999
    assert 1e-5 < found.relative_error < 5e-3, "computed in float16, not in float32"
    assert (found.interpreter, found.note) == (
        "interpreted, not Core ML",
        "interpreted, not Core ML; 7 of 7 weights match",
    )
    other = parity.logits_of(small_network(seed=1), own)
    assert parity.check(package, "mlpackage", own, other).verdict("float16") == "failed"
