"""Changes to a captured graph that keep its answers: BatchNorm folded, circular padding unrolled, idle parts gone."""

from __future__ import annotations

import copy
from collections import defaultdict

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

_ATEN = torch.ops.aten
_CONVOLUTIONS = {_ATEN.conv1d.default, _ATEN.conv1d.padding, _ATEN.conv2d.default, _ATEN.conv2d.padding}
_TRANSPOSED = {_ATEN.conv_transpose1d.default, _ATEN.conv_transpose2d.input}
_FOLDABLE = _CONVOLUTIONS | _TRANSPOSED | {_ATEN.linear.default}
_WEIGHT, _BIAS = 1, 2  # argument positions in every operator of _FOLDABLE


def fold_computed_weights(graph: fx.GraphModule) -> int:
    """Computes weights that come from parameters alone (weight standardization, parametrizations); gives the count.

    XNNPACK takes a layer only when its weight is a constant.
    """
    count = 0
    layers = [node for node in graph.graph.nodes if node.target in _FOLDABLE]
    for layer in layers:
        for position, given in list(enumerate(layer.args))[_WEIGHT : _BIAS + 1]:
            if not isinstance(given, fx.Node) or given.op != "call_function":
                continue
            sources = _parameters_behind(given)
            if not sources:
                continue
            owner, _, leaf = str(sources[0].target).rpartition(".")
            name = f"folded_{leaf}_{position}_{layer.name}"
            value = _evaluate(graph, given)
            graph.get_submodule(owner).register_parameter(name, nn.Parameter(value, requires_grad=False))
            with graph.graph.inserting_before(layer):
                constant = graph.graph.get_attr(f"{owner}.{name}".removeprefix("."))
            constant.meta["val"] = value
            layer.update_arg(position, constant)
            count += 1
    return count


def _parameters_behind(node: fx.Node) -> list[fx.Node]:
    """The parameters and buffers that the node is computed from; none where the image has a part in it."""
    if node.op in ("get_attr", "placeholder"):
        return [node] if node.op == "get_attr" else []
    behind = [_parameters_behind(source) for source in node.all_input_nodes]
    return [parameter for parameters in behind for parameter in parameters] if all(behind) else []


def _evaluate(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    if node.op == "get_attr":
        return _tensor(graph, str(node.target)).detach()
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: _evaluate(graph, source))
    value = node.target(*args, **kwargs)  # type: ignore[operator]  # the target of a call_function is callable
    assert isinstance(value, Tensor)
    return value


def fold_batch_norms(graph: fx.GraphModule) -> int:
    """Folds every eval-mode BatchNorm that alone reads a convolution or linear layer into its weights; gives the count.

    A weight that several layers share is folded only when all of them would get the same new weight; otherwise each
    would need a copy of its own, and the file would grow.
    """
    # Nodes that read each parameter or buffer. Tied parameters count as one, under each of their names.
    by_tensor: dict[int, set[fx.Node]] = defaultdict(set)
    tensors: dict[str, int] = {}
    for node in graph.graph.find_nodes(op="get_attr"):
        tensors[str(node.target)] = id(_tensor(graph, str(node.target)))
        by_tensor[tensors[str(node.target)]].update(node.users)
    readers = {name: by_tensor[tensor] for name, tensor in tensors.items()}
    folds: dict[str, dict[fx.Node, fx.Node]] = defaultdict(dict)
    for norm in graph.graph.find_nodes(op="call_function", target=_ATEN.batch_norm.default):
        layer = norm.args[0]
        if _can_fold(layer, norm):
            folds[str(layer.args[_WEIGHT].target)][layer] = norm
    count = 0
    for name, pairs in folds.items():
        # All that the folded weight depends on besides the weight: layers that agree here fold alike.
        statistics = {
            (
                *(getattr(node, "target", None) for node in (*layer.args[_BIAS : _BIAS + 1], *norm.args[1:5])),
                norm.args[7],
            )
            for layer, norm in pairs.items()
        }
        if len(statistics) > 1 or readers[name] != set(pairs):
            continue
        weight, bias = _folded(graph, *next(iter(pairs.items())))
        owner, _, leaf = name.rpartition(".")
        bias_leaf = f"{leaf.removesuffix('weight')}bias"
        # never overwrite what another operator reads: a bias may be tied, or "bias" something else in a user's module
        while readers.get(f"{owner}.{bias_leaf}".removeprefix("."), set()) - set(pairs):
            bias_leaf = f"folded_{bias_leaf}"
        holder = graph.get_submodule(owner)
        setattr(holder, leaf, nn.Parameter(weight, requires_grad=False))
        setattr(holder, bias_leaf, nn.Parameter(bias, requires_grad=False))
        for layer, norm in pairs.items():
            with graph.graph.inserting_before(layer):
                node = graph.graph.get_attr(f"{owner}.{bias_leaf}".removeprefix("."))
            node.meta["val"] = bias
            layer.args = (*layer.args[:_BIAS], node, *layer.args[_BIAS + 1 :])
            norm.replace_all_uses_with(layer)
            graph.graph.erase_node(norm)
        count += len(pairs)
    return count


def _can_fold(layer: object, norm: fx.Node) -> bool:
    if not isinstance(layer, fx.Node) or layer.target not in _FOLDABLE or len(layer.users) != 1:
        return False
    _, _, _, mean, variance, training, *_ = norm.args
    if training or not isinstance(mean, fx.Node) or not isinstance(variance, fx.Node):
        return False
    # BatchNorm1d over (N, C, L) normalizes C, a linear layer there puts its outputs in L.
    if layer.target is _ATEN.linear.default and layer.meta["val"].ndim != 2:
        return False
    constants = (layer.args[_WEIGHT], *layer.args[_BIAS : _BIAS + 1], *norm.args[1:5])
    return all(node is None or (isinstance(node, fx.Node) and node.op == "get_attr") for node in constants)


def _folded(graph: fx.GraphModule, layer: fx.Node, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer with the BatchNorm in them."""
    constants = (*(*layer.args, None)[_WEIGHT : _BIAS + 1], *norm.args[1:5])
    # in float64: a variance near zero would lose bits in float32
    weight, bias, scale, shift, mean, variance = (
        _tensor(graph, str(node.target)).detach().double() if isinstance(node, fx.Node) else None for node in constants
    )
    epsilon = norm.args[7]
    assert weight is not None
    assert mean is not None
    assert variance is not None
    assert isinstance(epsilon, float)
    scale = torch.ones_like(mean) if scale is None else scale
    shift = torch.zeros_like(mean) if shift is None else shift
    fuse = fuse_linear_bn_weights if layer.target is _ATEN.linear.default else fuse_conv_bn_weights
    groups = None if layer.target not in _TRANSPOSED else layer.args[6] if len(layer.args) > 6 else 1
    assert groups is None or isinstance(groups, int)
    folded, moved = fuse(_swap_channels(weight, groups), bias, mean, variance, epsilon, scale, shift)
    return _swap_channels(folded.detach(), groups).float(), moved.detach().float()


def _swap_channels(weight: Tensor, groups: int | None) -> Tensor:
    """(inputs, outputs / groups, ...) of a transposed convolution <-> (outputs, inputs / groups, ...)."""
    if groups is None:
        return weight
    return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


def unroll_circular_padding(graph: fx.GraphModule) -> int:
    """Writes circular padding as slices put around the image, which every format knows; gives the count."""
    count = 0
    for pad in graph.graph.find_nodes(op="call_function", target=_ATEN.pad.default):
        image, widths, *rest = pad.args
        if not rest or rest[0] != "circular" or not isinstance(image, fx.Node):
            continue
        with graph.graph.inserting_before(pad):
            padded, sizes = image, list(image.meta["val"].shape)
            # widths run from the last dimension backwards: (left, right, top, bottom)
            for index, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True), start=1):
                axis, size, parts = len(sizes) - index, sizes[-index], [padded]
                if before:
                    parts.insert(0, graph.graph.call_function(_ATEN.slice.Tensor, (padded, axis, size - before, size)))
                if after:
                    parts.append(graph.graph.call_function(_ATEN.slice.Tensor, (padded, axis, 0, after)))
                if len(parts) > 1:
                    padded = graph.graph.call_function(_ATEN.cat.default, (parts, axis))
        pad.replace_all_uses_with(padded)
        graph.graph.erase_node(pad)
        count += 1
    return count


def write_out_hardsigmoids(program: ExportedProgram) -> ExportedProgram:
    """The program with every hardsigmoid as clamp(x + 3, 0, 6) / 6, itself where it has none.

    ExecuTorch's own decomposition casts before and after, even from a type to itself, and each cast cuts the delegate
    in two. The numbers are constants of the activation's type for the same reason.
    """
    if not program.graph.find_nodes(op="call_function", target=_ATEN.hardsigmoid.default):
        return program
    graph = graph_of(program)
    for node in graph.graph.find_nodes(op="call_function", target=_ATEN.hardsigmoid.default):
        dtype = node.meta["val"].dtype
        with graph.graph.inserting_before(node):
            three, sixth = (_constant(graph, number, dtype) for number in (3.0, 1 / 6))
            shifted = graph.graph.call_function(_ATEN.add.Tensor, (node.args[0], three))
            clamped = graph.graph.call_function(_ATEN.hardtanh.default, (shifted, 0.0, 6.0))
            node.replace_all_uses_with(graph.graph.call_function(_ATEN.mul.Tensor, (clamped, sixth)))
        graph.graph.erase_node(node)
    return program_of(graph)


def merge_paddings(program: ExportedProgram) -> ExportedProgram:
    """The int8 program whose convolutions read what is padded with zeros straight, itself where none does.

    Between the two stand a quantization and its inverse that change no number. With them ExecuTorch pads in float32 and
    ONNX keeps an operator; without them the padding is the convolution's own.
    """
    if not zero_paddings(program.graph):
        return program
    graph, count = graph_of(program), 0
    for pad in zero_paddings(graph.graph):
        chain, node = list[fx.Node](), pad
        while len(node.users) == 1 and len(chain) < 3:
            (node,) = node.users
            chain.append(node)
        if len(chain) < 3 or chain[2].target not in _CONVOLUTIONS:
            continue
        quantized, number, _ = chain
        ranges = [each.args[1:] for each in (pad.args[0], quantized, number) if isinstance(each, fx.Node)]
        if "dequantize" in str(number.target) and len(ranges) == 3 and ranges[0] == ranges[1] == ranges[2]:
            number.replace_all_uses_with(pad)
            graph.graph.erase_node(number)
            graph.graph.erase_node(quantized)
            count += 1
    return program_of(graph) if count else program


def zero_paddings(graph: fx.Graph) -> list[fx.Node]:
    """The operators that put zeros around an image."""
    found = []
    for node in graph.nodes:
        arguments = [*node.args[2:]]
        if node.target is _ATEN.pad.default:
            mode = arguments.pop(0) if arguments else "constant"
        elif node.target is _ATEN.constant_pad_nd.default:
            mode = "constant"
        else:
            continue
        if mode == "constant" and (not arguments or not arguments[0]):
            found.append(node)
    return found


def write_out_silus(graph: fx.GraphModule) -> None:
    """Turns every SiLU into x * sigmoid(x), which XNNPACK has in every number type; the product has its name."""
    for target in (_ATEN.silu.default, _ATEN.silu_.default):
        for node in graph.graph.find_nodes(op="call_function", target=target):
            with graph.graph.inserting_before(node):
                gate = graph.graph.call_function(_ATEN.sigmoid.default, (node.args[0],))
            gate.meta = dict(node.meta)
            node.target, node.args = _ATEN.mul.Tensor, (node.args[0], gate)
    graph.recompile()


def make_functional(graph: fx.GraphModule) -> None:
    """Turns operators that overwrite what they read (relu_) into those that do not, so that values can be kept.

    A captured graph reads the result of such an operator, never again what it has overwritten.
    """
    for node in graph.graph.nodes:
        name = str(getattr(getattr(node.target, "_schema", None), "name", ""))
        if node.op == "call_function" and name.startswith("aten::") and name.endswith("_") and not name.endswith("__"):
            packet = getattr(_ATEN, name.removeprefix("aten::").removesuffix("_"))
            node.target = getattr(packet, node.target._overloadname)
    graph.recompile()


def change_types(graph: fx.GraphModule, given: torch.dtype, wanted: torch.dtype) -> None:
    """Casts every constant of one type to another, and has operators that name the one name the other."""
    changed: dict[int, Tensor] = {}  # a tensor under two names stays one
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            owner, _, leaf = str(node.target).rpartition(".")
            holder = graph.get_submodule(owner)
            tensor = getattr(holder, leaf)
            if tensor.dtype == given:
                if id(tensor) not in changed:
                    cast = tensor.detach().to(wanted)
                    named = nn.Parameter(cast, requires_grad=False) if isinstance(tensor, nn.Parameter) else cast
                    changed[id(tensor)] = named
                setattr(holder, leaf, changed[id(tensor)])
        else:
            for name, arguments in (("args", node.args), ("kwargs", node.kwargs)):
                setattr(node, name, fx.node.map_aggregate(arguments, lambda own: wanted if own == given else own))


def graph_of(program: ExportedProgram) -> fx.GraphModule:
    """A graph of the program to change; its tensors are its own, and it takes any batch that its operators take."""
    graph = copy.deepcopy(program.module(check_guards=False))
    assert isinstance(graph, fx.GraphModule)
    graph._forward_pre_hooks.clear()  # the check of the input as it was captured
    return graph


def program_of(graph: fx.GraphModule) -> ExportedProgram:
    """The program for one image that a changed graph is."""
    graph.recompile()
    (image,) = graph.graph.find_nodes(op="placeholder")
    with torch.no_grad():
        return torch.export.export(graph, (torch.zeros(image.meta["val"].shape),))


def _constant(graph: fx.GraphModule, number: float, dtype: torch.dtype) -> fx.Node:
    name = f"constant_{str(number).replace('.', '_')}_{str(dtype).rpartition('.')[2]}"
    graph.register_buffer(name, torch.tensor([number], dtype=dtype))
    return graph.graph.get_attr(name)


def drop_identities(graph: fx.GraphModule) -> int:
    """Removes operators that give what they are given; gives the count.

    Each would run outside ExecuTorch's delegate and cut it in two: adaptive pooling to the size that is there already
    (AlexNet and VGG at 224), a concatenation of one tensor (DenseNet), dropout in eval mode, an alias, which a slice of
    all channels becomes (GhostNet).
    """
    count = 0
    for node in graph.graph.nodes:
        source = node.args[0] if node.args else None
        if node.target is _ATEN.cat.default and isinstance(source, (list, tuple)):
            source = source[0] if len(source) == 1 else None
        elif node.target is _ATEN.alias.default:
            pass
        elif node.target is _ATEN.dropout.default:
            source = source if node.args[2] is False else None
        elif node.target is _ATEN.adaptive_avg_pool2d.default and isinstance(source, fx.Node) and "val" in source.meta:
            same = list(source.meta["val"].shape[-2:]) == list(node.meta["val"].shape[-2:])
            source = source if same else None
        else:
            source = None
        if isinstance(source, fx.Node):
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
            count += 1
    return count


def drop_unused_weights(graph: fx.GraphModule) -> int:
    """Removes parameters and buffers that no operator reads (auxiliary heads, folded statistics); gives the count."""
    graph.graph.eliminate_dead_code()
    for node in graph.graph.find_nodes(op="get_attr"):
        if not node.users:
            graph.graph.erase_node(node)
    read = {str(node.target) for node in graph.graph.find_nodes(op="get_attr")}
    names = [name for name, _ in (*graph.named_parameters(), *graph.named_buffers()) if name not in read]
    for name in names:
        owner, _, leaf = name.rpartition(".")
        delattr(graph.get_submodule(owner), leaf)
    return len(names)


def _tensor(graph: fx.GraphModule, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    tensor = getattr(graph.get_submodule(owner), leaf)
    assert isinstance(tensor, Tensor)
    return tensor
