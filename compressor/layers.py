"""Layers as every factorization sees them: shape, weight as kernels, place in a network, layers that copy settings.

A factored layer computes its outputs by its factors, and stays the object that it was, of the same class and with the
same attributes and hooks: a forward pass that asks `isinstance(layer, nn.Conv2d)` or reads `layer.kernel_size` goes on
as before. Only what it holds is exchanged: the factors are its submodules "0", "1", ..., and `weight` and `bias` are
worked out of theirs wherever they are read.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from compressor.layer_shape import LayerShape, PlanError

L = TypeVar("L", nn.Conv2d, nn.Linear)
Layer = nn.Conv2d | nn.Linear
"""A layer that can be factored."""


def layer_shape(layer: Layer, in_size: tuple[int, int] = (1, 1), out_size: tuple[int, int] | None = None) -> LayerShape:
    """Geometry of a layer that reads `in_size` positions (height, width) and writes `out_size` (as read, if None)."""
    out_size = in_size if out_size is None else out_size
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return LayerShape("linear", layer.in_features, layer.out_features, 1, (1, 1), in_size, out_size, bias)
    height, width = layer.kernel_size
    return LayerShape(
        "conv", layer.in_channels, layer.out_channels, layer.groups, (height, width), in_size, out_size, bias
    )


def own_layers(network: nn.Module) -> dict[str, Layer]:
    """Every convolution and fully connected layer by name; where one is factored, its factors alone."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not is_factored(module)
    }


def find_layer(network: nn.Module, name: str) -> Layer:
    """The layer of that name. PlanError with the nearest names if there is none, if it is another kind of module, or
    factored already."""
    modules = dict(network.named_modules(remove_duplicate=False))
    if name not in modules:
        known = [own for own, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)]
        raise no_such_layer(name, known)
    layer = modules[name]
    if is_factored(layer):
        parts = ", ".join(f"{name}.{part}" for part in layer._modules)
        raise PlanError(f"{name} is factored already, into {parts}; name one of these, or start from the original")
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise PlanError(
            f"{name or 'the network'} is a {type(layer).__name__}, neither a convolution nor a fully connected layer; "
            "take it out of the plan"
        )
    return layer


def no_such_layer(name: str, known: Iterable[str]) -> PlanError:
    """The error for a name that the network lacks, with the nearest names that it has."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    return PlanError(f"the network has no layer {name!r}; the nearest are {', '.join(near) or 'none at all'}")


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and every module's own mode again afterwards."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_layer_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Raises PlanError for the first of `names` that is not among the `known`, with the nearest that are."""
    known = list(known)
    for name in names:
        if name not in known:
            raise no_such_layer(name, known)


def replace_module(network: nn.Module, name: str, new: nn.Module) -> None:
    """Puts `new` wherever the module called `name` stands: under each of its names, in each of its parents."""
    modules = dict(network.named_modules(remove_duplicate=False))
    if name not in modules:
        raise no_such_layer(name, modules)
    old = modules[name]
    if old is network:
        raise PlanError("the network itself cannot be replaced; wrap it in nn.Sequential and name its layer '0'")
    for parent in list(network.modules()):
        for key, child in list(parent._modules.items()):
            if child is old:
                parent._modules[key] = new


def split_kernels(layer: Layer) -> Tensor:
    """The weight as (groups, T, S, D), a copy on the CPU in float32, or in float64 if the layer is.

    On the CPU, so that one seed gives the same factors wherever the network lives. PlanError where the layer's own
    forward pass may not be the convolution that its weight tells, or where the weight is not finite.
    """
    refuse_own_forward(layer)
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    exact = torch.float64 if layer.weight.dtype == torch.float64 else torch.float32
    weight = layer.weight.detach().to(device="cpu", dtype=exact, copy=True)
    if not bool(torch.isfinite(weight).all()):
        sizes = "x".join(map(str, weight.shape))
        raise PlanError(f"the {sizes} weight holds NaN or infinity, so nothing can approximate it; mend the checkpoint")
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).contiguous()


def weight_digest(layer: Layer) -> bytes:
    """16 bytes that tell one weight from another: of its shape, type, groups and values."""
    weight = layer.weight.detach().cpu().contiguous()
    text = f"{tuple(weight.shape)} {weight.dtype} {getattr(layer, 'groups', 1)}"
    return hashlib.blake2b(weight.view(torch.uint8).numpy().data, digest_size=16, key=text.encode()[:64]).digest()


def refuse_own_forward(layer: Layer) -> None:
    """Raises PlanError for a subclass that computes something else, such as timm's Conv2dSame, which pads by itself."""
    plain: type[Layer] = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    names = ("forward", "_conv_forward") if plain is nn.Conv2d else ("forward",)
    if any(name in vars(layer) or getattr(type(layer), name) is not getattr(plain, name) for name in names):
        raise PlanError(
            f"{type(layer).__name__} has a forward pass of its own, so factors of its weight may compute something "
            f"else than it does; replace it by nn.{plain.__name__}, or keep the layer with --keep-layers"
        )


def conv_like(
    layer: nn.Conv2d,
    channels: tuple[int, int],
    *,
    window: tuple[int, int] = (1, 1),
    groups: int = 1,
    owns: tuple[bool, bool] = (False, False),
    bias: bool = False,
) -> nn.Conv2d:
    """A convolution from `channels[0]` to `channels[1]`, all zeros but for the layer's bias where `bias` asks for it.

    Along an axis (height, width) that it `owns` it takes the layer's stride, padding and dilation, along the others it
    has none, so the factors of one layer own each axis once. Type, device and the training flag are the layer's; its
    weights are to be trained, even those that stand in the place of frozen ones. A padding mode commutes with a 1x1
    convolution that has no bias, so any factor before the last may pad.
    """
    stride, dilation = (_along(sizes, owns, 1) for sizes in (layer.stride, layer.dilation))
    # 'same' adds nothing along an axis where the window is 1, so a factor that owns one axis can keep the word.
    words = isinstance(layer.padding, str) and any(owns)
    given = (0, 0) if isinstance(layer.padding, str) else layer.padding
    padding = layer.padding if words else _along(given, owns, 0)
    new: nn.Conv2d = skip_init(  # type: ignore[no-untyped-call]  # torch publishes no types for it
        nn.Conv2d,
        *channels,
        window,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias and layer.bias is not None,
        padding_mode=layer.padding_mode if any(owns) else "zeros",
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    return _finish(new, layer)


def linear_like(layer: nn.Linear, features: tuple[int, int], *, bias: bool = False) -> nn.Linear:
    """A fully connected layer, all zeros but for the layer's bias where `bias` asks for it; see `conv_like`."""
    new: nn.Linear = skip_init(  # type: ignore[no-untyped-call]  # torch publishes no types for it
        nn.Linear, *features, bias=bias and layer.bias is not None, device=layer.weight.device, dtype=layer.weight.dtype
    )
    return _finish(new, layer)


def like(layer: Layer) -> Layer:
    """An ordinary layer of the same geometry and bias, its weight zeros."""
    if isinstance(layer, nn.Linear):
        return linear_like(layer, (layer.in_features, layer.out_features), bias=True)
    channels, window = (layer.in_channels, layer.out_channels), (layer.kernel_size[0], layer.kernel_size[1])
    return conv_like(layer, channels, window=window, groups=layer.groups, owns=(True, True), bias=True)


def fill(layer: nn.Module, weight: Tensor) -> None:
    """Copies `weight`, in any shape of as many elements, into the layer's weight, with its type and device."""
    target = layer.get_parameter("weight")
    with torch.no_grad():
        target.copy_(weight.reshape(target.shape))


def shift_bias(factors: nn.Sequential, shift: Tensor | None) -> None:
    """Adds `shift`, in any shape of as many elements, to the bias of the last factor; nothing where it is None."""
    if shift is not None:
        bias = factors[-1].get_parameter("bias")
        with torch.no_grad():
            bias.add_(shift.reshape(bias.shape).to(bias))


def _along(sizes: tuple[int, ...], owns: tuple[bool, bool], otherwise: int) -> tuple[int, int]:
    height, width = (size if own else otherwise for size, own in zip(sizes, owns, strict=True))
    return height, width


def _finish(new: L, layer: Layer) -> L:
    # skip_init leaves whatever the memory held, which may be NaN.
    with torch.no_grad():
        new.weight.zero_()
        if new.bias is not None and layer.bias is not None:
            new.bias.copy_(layer.bias)
    return new.train(layer.training)


# ---- factored layers ---------------------------------------------------------------------------------------------


Factored = dict[str, nn.Module]
"""A layer's submodules: its factors in order. Held by the layer, its forward pass and its parameters alike, so that
they stay one where the network is copied."""


class _Forward:
    """A layer's forward pass: one factor after the other."""

    def __init__(self, factors: Factored) -> None:
        self.factors = factors

    def __call__(self, inputs: Tensor) -> Tensor:
        for factor in self.factors.values():
            inputs = factor(inputs)
        return inputs


class _Parameters(dict[str, Any]):
    """A layer's own parameters: none to train, to move or to store, but its factors' product where one is read."""

    factors: Factored
    shape: torch.Size
    shapes_only = False

    def __contains__(self, name: object) -> bool:
        return name in ("weight", "bias")

    def __getitem__(self, name: str) -> Tensor | None:
        last: Any = [*self.factors.values()][-1]
        if name == "bias":
            bias: Tensor | None = last.bias
            return bias
        if _Parameters.shapes_only:
            weight: Tensor = last.weight
            return weight.detach().new_zeros(()).expand(self.shape)
        return _product(self.factors)

    def __setitem__(self, name: str, value: object) -> None:
        raise TypeError(
            f"the {name} of a factored layer is worked out of its factors, and cannot be set; set those of the factors"
        )


def put_factors(layer: nn.Module, factors: nn.Sequential) -> None:
    """Makes `layer` compute its outputs by these factors from now on."""
    own: Factored = dict(factors.named_children())
    parameters = _Parameters()
    parameters.factors, parameters.shape = own, layer.get_parameter("weight").shape
    vars(layer).update(forward=_Forward(own), _modules=own, _parameters=parameters)


@contextmanager
def factors_in_place(layer: nn.Module, factors: nn.Sequential) -> Iterator[None]:
    """`layer` computes its outputs by these factors, and as before afterwards."""
    before = dict(vars(layer))
    put_factors(layer, factors)
    try:
        yield
    finally:
        vars(layer).clear()
        vars(layer).update(before)


def is_factored(module: nn.Module) -> bool:
    """True for a layer whose outputs are computed by factors."""
    return isinstance(vars(module).get("forward"), _Forward)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Weights of factored layers have their shape, type and device, and no values: nothing is computed to read them."""
    _Parameters.shapes_only = True
    try:
        yield
    finally:
        _Parameters.shapes_only = False


def _product(factors: Factored) -> Tensor:
    """The weight that the factors reconstruct; gradients flow through it.

    Along each axis at most one factor has a window, stride, padding and dilation, so the whole window is the full
    convolution of theirs.
    """
    chain: list[Any] = [*factors.values()]
    first, *others = chain
    product: Tensor = first.weight
    if product.dim() == 2:
        for factor in others:
            product = factor.weight @ product
        return product
    product = product.transpose(0, 1)  # each input channel of a group is an image of the first factor's outputs
    for factor in others:
        weight: Tensor = factor.weight
        margins = [size - 1 for size in weight.shape[2:]]
        product = functional.conv2d(product, weight.flip(2, 3), padding=margins, groups=factor.groups)
    return product.transpose(0, 1)
