"""Weights and operators of a LiteRT .tflite: a FlatBuffer, whose field numbers are those of its schema.fbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.file_contents.contents import ContentError, Contents, Weight, counted, mapped
from bench.file_contents.flatbuffer import Flat
from exporters.writers.to_litert import LAYERS, layer_of

CODES, SUBGRAPHS, BUFFERS = 1, 2, 4
TENSORS, INPUTS, OPERATORS = 0, 1, 3
SHAPE, TYPE, BUFFER, NAME = 0, 1, 2, 3
CODE, TAKES, GIVES = 0, 1, 2
"""Fields of the model, of a subgraph, of a tensor, and of an operator."""

TYPES = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64",
    "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4", "bfloat16", "int2", "uint4",
)  # fmt: skip
READ_BY_LAYER = (*LAYERS, "DEQUANTIZE")
"""Operators that read weights; those in float16 pass a cast."""
CUSTOM = 32
"""An operator of this code has a name of its own."""

NAMES = (
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE",
    "EMBEDDING_LOOKUP", "FLOOR", "FULLY_CONNECTED", "HASHTABLE_LOOKUP", "L2_NORMALIZATION", "L2_POOL_2D",
    "LOCAL_RESPONSE_NORMALIZATION", "LOGISTIC", "LSH_PROJECTION", "LSTM", "MAX_POOL_2D", "MUL", "RELU",
    "RELU_N1_TO_1", "RELU6", "RESHAPE", "RESIZE_BILINEAR", "RNN", "SOFTMAX", "SPACE_TO_DEPTH", "SVDF", "TANH",
    "CONCAT_EMBEDDINGS", "SKIP_GRAM", "CALL", "CUSTOM", "EMBEDDING_LOOKUP_SPARSE", "PAD",
    "UNIDIRECTIONAL_SEQUENCE_RNN", "GATHER", "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND", "TRANSPOSE", "MEAN", "SUB",
    "DIV", "SQUEEZE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "STRIDED_SLICE", "BIDIRECTIONAL_SEQUENCE_RNN", "EXP",
    "TOPK_V2", "SPLIT", "LOG_SOFTMAX", "DELEGATE", "BIDIRECTIONAL_SEQUENCE_LSTM", "CAST", "PRELU", "MAXIMUM",
    "ARG_MAX", "MINIMUM", "LESS", "NEG", "PADV2", "GREATER", "GREATER_EQUAL", "LESS_EQUAL", "SELECT", "SLICE",
    "SIN", "TRANSPOSE_CONV", "SPARSE_TO_DENSE", "TILE", "EXPAND_DIMS", "EQUAL", "NOT_EQUAL", "LOG", "SUM", "SQRT",
    "RSQRT", "SHAPE", "POW", "ARG_MIN", "FAKE_QUANT", "REDUCE_PROD", "REDUCE_MAX", "PACK", "LOGICAL_OR",
    "ONE_HOT", "LOGICAL_AND", "LOGICAL_NOT", "UNPACK", "REDUCE_MIN", "FLOOR_DIV", "REDUCE_ANY", "SQUARE",
    "ZEROS_LIKE", "FILL", "FLOOR_MOD", "RANGE", "RESIZE_NEAREST_NEIGHBOR", "LEAKY_RELU", "SQUARED_DIFFERENCE",
    "MIRROR_PAD", "ABS", "SPLIT_V", "UNIQUE", "CEIL", "REVERSE_V2", "ADD_N", "GATHER_ND", "COS", "WHERE", "RANK",
    "ELU", "REVERSE_SEQUENCE", "MATRIX_DIAG", "QUANTIZE", "MATRIX_SET_DIAG", "ROUND", "HARD_SWISH", "IF", "WHILE",
    "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "SCATTER_ND", "SELECT_V2", "DENSIFY", "SEGMENT_SUM",
    "BATCH_MATMUL", "PLACEHOLDER_FOR_GREATER_OP_CODES", "CUMSUM", "CALL_ONCE", "BROADCAST_TO", "RFFT2D",
    "CONV_3D", "IMAG", "REAL", "COMPLEX_ABS", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE",
    "REDUCE_ALL", "CONV_3D_TRANSPOSE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "BROADCAST_ARGS",
    "RANDOM_STANDARD_NORMAL", "BUCKETIZE", "RANDOM_UNIFORM", "MULTINOMIAL", "GELU",
)  # fmt: skip
"""Operators by their code; those above are of no CNN."""


def read(path: Path) -> Contents:
    """The content of the file, weights in the order in which operators read them, each called like the layer that reads
    it. ContentError if it is no whole LiteRT model."""
    with mapped(path) as data:
        root = _root(data)
        codes = [_operator(code) for code in root.tables(CODES)]
        places = [_place(buffer, len(data)) for buffer in root.tables(BUFFERS)]
        weights: dict[int, Weight] = {}
        operators: list[str] = []
        for subgraph in root.tables(SUBGRAPHS):
            tensors = subgraph.tables(TENSORS)
            for operator in subgraph.tables(OPERATORS):
                code = codes[operator.number(CODE, "u32")]
                operators.append(code)
                gives = tensors[operator.numbers(GIVES, "i32")[0]].text(NAME) if code in LAYERS else ""
                for tensor in (tensors[index] for index in operator.numbers(TAKES, "i32") if index >= 0):
                    start, length = places[tensor.number(BUFFER, "u32")]
                    if length and start not in weights:
                        shape, number = tensor.numbers(SHAPE, "i32"), tensor.number(TYPE, "i8")
                        dtype = TYPES[number] if 0 <= number < len(TYPES) else f"type {number}"
                        own = tensor.text(NAME)
                        layer = layer_of(own) or layer_of(gives) if code in READ_BY_LAYER else ""
                        kind = "weight" if len(shape) > 1 else "bias"
                        name = f"{layer}.{kind}" if layer else own.rstrip(";")
                        weights[start] = Weight(name, dtype, shape, length, path, start)
    return Contents(path.stat().st_size, tuple(weights.values()), counted(operators))


def input_shape(path: Path) -> tuple[int, ...] | None:
    """The shape of the first input; None where a side of it is left open."""
    with mapped(path) as data:
        subgraph = _root(data).tables(SUBGRAPHS)[0]
        inputs = subgraph.numbers(INPUTS, "i32")
        shape = subgraph.tables(TENSORS)[inputs[0]].numbers(SHAPE, "i32") if inputs else ()
    return shape if shape and min(shape) > 0 else None


def _root(data: Any) -> Flat:
    if bytes(data[4:8]) != b"TFL3":
        raise ContentError("it does not begin as a LiteRT model does (TFL3)")
    root = Flat.root(data)
    if not root.tables(SUBGRAPHS):
        raise ContentError("it has no graph")
    return root


def _operator(code: Flat) -> str:
    number = max(code.number(0, "i8"), code.number(3, "i32"))
    if number == CUSTOM:
        return code.text(1)
    return NAMES[number] if 0 <= number < len(NAMES) else f"operator {number}"


def _place(buffer: Flat, end: int) -> tuple[int, int]:
    """Offset and bytes of a buffer: inside the tables, or behind them in files of more than 2 GB."""
    start, length = buffer.vector(0)
    if not length:
        start, length = buffer.number(1, "u64"), buffer.number(2, "u64")
    if start + length > end:
        raise ContentError(f"it speaks of {start + length:,} bytes, and has {end:,}")
    return start, length
