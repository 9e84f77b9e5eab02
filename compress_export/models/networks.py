"""Networks by name: "alexnet", "timm:resnet18", "net.py:build", "alexnet-caffe" -> a module and the image it takes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress_export.errors import InputError, nearest
from compress_export.models.checkpoint_file import fitted, load_checkpoint, outputs_of, read_checkpoint
from compress_export.models.resize import Resize, whole
from compress_export.models.tasks import choose_task, with_kinds
from compress_export.settings import Interpolation, own_code
from exporters.outputs import Output, named_tensors

Image = tuple[int, int, int]
Origin = Literal["pretrained", "file", "trained", "untrained", "module file"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

WAYS_ON = (
    "pass --weights FILE with weights you have, --data digits to train from scratch (--train EPOCHS for other data), "
    "or --weights none for size, latency and export of the untrained network"
)


@dataclass(frozen=True)
class Network:
    """A module in evaluation mode, the image it takes (channels, height, width), its task, how many logits it has (of a
    segmenter, classes; of others, numbers in the first output's row), where its weights come from, and how a picture
    becomes such an image. `layout` are its outputs by name, `notes` what its user should know of it."""

    name: str
    module: nn.Module
    input: Image
    outputs: int
    origin: Origin
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: Resize | None = None
    notes: tuple[str, ...] = ()
    task: str = "classify"
    layout: tuple[Output, ...] = ()


@dataclass(frozen=True)
class NetworkRequest:
    """A network to load: its name, weights ("default", "none", or a file), the image size, how many outputs, its task.

    `outputs` is None for the network's own number; with `train` the weights are those of a fresh network. `origin` says
    where weights came from that the caller will put in. Without a `task` it is what the network is known for.
    """

    name: str
    weights: str = "default"
    input: Image | None = None
    outputs: int | None = None
    train: bool = False
    origin: Origin | None = None
    task: str | None = None

    @property
    def fresh(self) -> bool:
        """True if the module is built without the published weights."""
        return self.train or self.weights != "default"

    @property
    def published(self) -> bool:
        """True if the weights are, or may be, those that were published for ImageNet."""
        return not self.train and (self.weights != "none" or self.origin in ("pretrained", "file"))


@dataclass(frozen=True)
class _Built:
    module: nn.Module
    input: Image | None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    origin: Origin = "pretrained"
    resize: Resize | None = None
    notes: tuple[str, ...] = ()
    task: str = ""


def load_network(request: NetworkRequest) -> Network:
    """The network that `request` names. InputError for an unknown name, weights that cannot be had or do not fit."""
    if request.name.endswith(".py"):
        raise InputError(f"{request.name}: name the function that builds the network as well, {request.name}:FUNCTION")
    build = OWN.get(request.name, _from_torchvision)
    if request.name.startswith("timm:"):
        build = _from_timm
    elif own_code(request.name):
        build = _from_own_code
    checkpoint = None if request.weights in ("default", "none") else read_checkpoint(request.weights)
    if checkpoint is not None and request.outputs is None and not own_code(request.name):
        with torch.device("meta"):  # only the names are looked at
            module = build(request).module
            request = replace(request, outputs=outputs_of(fitted(checkpoint.weights, module).weights, module))
    built = build(request)
    size = request.input or built.input
    if size is None:
        raise InputError(
            f"{request.name} does not tell the size of its images; pass --input, such as --input 3x224x224"
        )
    origin: Origin = built.origin
    notes = built.notes
    if checkpoint is not None:
        notes += load_checkpoint(built.module, checkpoint, f"--weights {request.weights}")
        origin = "file"
    elif request.train:
        origin = "trained"
    elif request.weights == "none":
        origin = request.origin or "untrained"
    module, other = built.module.eval(), _other_types(built.module)
    if other:
        module = module.float()
        notes += (f"the weights of {request.name} are {other}, and are converted to float32 here",)
    try:
        with torch.no_grad():
            answer = module(torch.zeros(1, *size))
    except Exception as error:  # the network's own code may raise anything at an image that it does not take
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        image = "x".join(map(str, size))
        if other:
            raise InputError(
                f"{request.name} computes in {other} by casts of its own ({reason}), and files hold float32: take the "
                "casts out of its forward, or build it in float32"
            ) from error
        raise InputError(f"{request.name} does not take a {image} image: {reason}; pass another --input") from error
    tensors = _tensors(request, answer)
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors.values()]
    task = choose_task(request.task, shapes, built.task)
    if task == "embed" and len(tensors) == 1:
        tensors = dict(zip(("embedding",), tensors.values(), strict=True))
    outputs = with_kinds([Output(name, tuple(own.shape[1:])) for name, own in tensors.items()], task)
    mean, std = (built.mean, built.std) if len(built.mean) == size[0] else usual_normalization(size[0])
    resize = whole(size) if built.resize is None or built.input is None else built.resize.scaled(built.input, size)
    if task == "segment":  # a mask is resized like its picture
        resize = whole(size)
    count = shapes[0][0] if shapes[0] else 1
    return Network(request.name, module, size, count, origin, mean, std, resize, notes, task, outputs)


def _tensors(request: NetworkRequest, answer: object) -> dict[str, Tensor]:
    """The outputs for one image by name. InputError unless they are float32 tensors, each with a row for the image."""
    try:
        tensors = named_tensors(answer)
    except TypeError as error:
        raise InputError(
            f"{request.name} answers with {error}, and outputs are tensors, or tuples, lists and dicts of them; return "
            "these from its forward, or register a dataclass with torch.export.register_dataclass"
        ) from error
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise InputError(
                f"{request.name} answers in {str(tensor.dtype).removeprefix('torch.')}{_of(name, tensors)}, and files "
                "hold float32: take the cast out of its forward"
            )
        if tensor.dim() == 0 or len(tensor) != 1:
            raise InputError(
                f"{request.name} gives {name} of shape {tuple(tensor.shape)} for one image, and the first side of an "
                "output counts images: how many numbers there are must not depend on the picture; leave out of its "
                "forward what chooses among them"
            )
    if not tensors:
        raise InputError(f"{request.name} answers an image with no tensor; return at least one from its forward")
    return tensors


def _of(name: str, tensors: Mapping[str, Tensor]) -> str:
    return f" ({name})" if len(tensors) > 1 else ""


def _other_types(network: nn.Module) -> str:
    """The floating-point types other than float32 in which a network holds its weights, "" where there are none."""
    types = {value.dtype for value in network.state_dict().values() if value.is_floating_point()} - {torch.float32}
    return " and ".join(sorted(str(each).removeprefix("torch.") for each in types))


def usual_normalization(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation where a network tells none: ImageNet's for RGB, its grey level for one channel, pixels from -1
    to 1 for other numbers."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return ((0.449,), (0.226,)) if channels == 1 else ((0.5,) * channels, (0.5,) * channels)


def _from_torchvision(request: NetworkRequest) -> _Built:
    from torchvision import models

    names = models.list_models(module=models)
    if request.name not in names:
        if request.name in models.list_models():
            task = models.get_model_builder(request.name).__module__.split(".")[2]
            if task == "segmentation":
                return _segmenter(request)
            raise InputError(
                f"{request.name} is one of torchvision.models.{task}, and by name this tool takes classifiers and "
                "segmenters in float32; give another as FILE.py:FUNCTION, a module that takes one image and returns "
                "its tensors"
            )
        raise InputError(f"there is no network {request.name!r}: {nearest(request.name, [*names, *OWN])}")
    meta = models.get_model_weights(request.name)["DEFAULT"]
    preset = meta.transforms()
    size = (3, preset.crop_size[0], preset.crop_size[0])
    extra: dict[str, Any] = {} if request.outputs is None else {"num_classes": request.outputs}
    if request.name in ("googlenet", "inception_v3") and request.fresh:
        # torchvision says these two only when it loads its own weights: they were trained on another normalization.
        extra |= {"aux_logits": False, "init_weights": request.train, "transform_input": request.published}
    try:
        module = models.get_model(
            request.name, weights=None if request.fresh else meta, **({} if not request.fresh else extra)
        )
    except OSError as error:
        raise InputError(
            f"the pretrained weights of {request.name} cannot be downloaded ({error}): {WAYS_ON}"
        ) from error
    # auxiliary classifiers serve training from scratch only, and no exported file
    for name in ("aux1", "aux2", "AuxLogits"):
        if getattr(module, name, None) is not None:
            setattr(module, name, None)
            module.aux_logits = False
    side = preset.resize_size[0]
    resize = Resize((side, side), True, cast(Interpolation, preset.interpolation.value))
    return _Built(module, size, tuple(preset.mean), tuple(preset.std), resize=resize)


def _segmenter(request: NetworkRequest) -> _Built:
    """One of torchvision's segmenters, which gives a class map of the image's size as its output `out`."""
    from torchvision import models

    meta = models.get_model_weights(request.name)["DEFAULT"]
    preset = meta.transforms()
    extra: dict[str, Any] = {} if request.outputs is None else {"num_classes": request.outputs}
    extra |= {} if request.name.startswith("lraspp") else {"aux_loss": False}
    fresh = {"weights": None, "weights_backbone": None, **extra}
    try:
        module = models.get_model(request.name, **(fresh if request.fresh else {"weights": meta}))
    except OSError as error:
        raise InputError(
            f"the pretrained weights of {request.name} cannot be downloaded ({error}): {WAYS_ON}"
        ) from error
    if getattr(module, "aux_classifier", None) is not None:  # serves training only, and no exported file
        module.aux_classifier = None
    size = (3, preset.resize_size[0], preset.resize_size[0])
    return _Built(module, size, tuple(preset.mean), tuple(preset.std), task="segment")


def _from_timm(request: NetworkRequest) -> _Built:
    import timm
    from timm.data.config import resolve_data_config

    name = request.name.removeprefix("timm:")
    if not timm.is_model(name.split(".")[0]):
        raise InputError(f"timm has no network {name!r}: {nearest(name, timm.list_models())}")
    extra: dict[str, Any] = {} if request.outputs is None else {"num_classes": request.outputs}
    if request.task == "embed":
        extra = {"num_classes": 0}
    try:
        module = timm.create_model(name, pretrained=not request.fresh, **extra)
    except Exception as error:  # the hub client raises errors of several libraries, none of them a common class
        if request.fresh:
            raise
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the pretrained weights of {request.name} cannot be downloaded ({reason}): {WAYS_ON}"
        ) from error
    # timm's own defaults stand where a network says nothing
    data = resolve_data_config(pretrained_cfg=module.pretrained_cfg)  # type: ignore[no-untyped-call]  # timm's own gap
    size = cast(Image, tuple(data["input_size"]))
    sides = math.floor(size[1] / data["crop_pct"]), math.floor(size[2] / data["crop_pct"])
    resize = Resize(sides, data["crop_mode"] != "squash", data["interpolation"])
    padded = ("the weights publish pictures padded to a square, and here their centre is cropped",)
    notes = padded if data["crop_mode"] == "border" else ()
    return _Built(module, size, tuple(data["mean"]), tuple(data["std"]), resize=resize, notes=notes)


def _from_own_code(request: NetworkRequest) -> _Built:
    from compress_export.models.own_code import build_own

    return _Built(build_own(request.name), None, origin="module file")


class LocalResponseNorm(nn.Module):
    """Krizhevsky 2012, section 3.3, over 5 channels: x / (1 + 1e-4 * mean of squares)**0.75.

    Equal to nn.LocalResponseNorm(5), but through a two-dimensional pooling, which phone runtimes have kernels for.
    """

    def forward(self, image: Tensor) -> Tensor:
        squares = (image * image).flatten(2).unsqueeze(1)
        mean = functional.avg_pool2d(squares, (5, 1), stride=1, padding=(2, 0)).squeeze(1).view_as(image)
        return image / (1 + 1e-4 * mean) ** 0.75


def alexnet_caffe(num_classes: int = 1000) -> nn.Sequential:
    """The grouped network: 60.97M weights and 724M MACs at 3x227x227. Layers are named as the papers name them."""
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, 96, 11, stride=4),
        "relu1": nn.ReLU(),
        "norm1": LocalResponseNorm(),
        "pool1": nn.MaxPool2d(3, 2),
        "conv2": nn.Conv2d(96, 256, 5, padding=2, groups=2),
        "relu2": nn.ReLU(),
        "norm2": LocalResponseNorm(),
        "pool2": nn.MaxPool2d(3, 2),
        "conv3": nn.Conv2d(256, 384, 3, padding=1),
        "relu3": nn.ReLU(),
        "conv4": nn.Conv2d(384, 384, 3, padding=1, groups=2),
        "relu4": nn.ReLU(),
        "conv5": nn.Conv2d(384, 256, 3, padding=1, groups=2),
        "relu5": nn.ReLU(),
        "pool5": nn.MaxPool2d(3, 2),
        "flatten": nn.Flatten(),
        "fc6": nn.Linear(9216, 4096),
        "relu6": nn.ReLU(),
        "drop6": nn.Dropout(),
        "fc7": nn.Linear(4096, 4096),
        "relu7": nn.ReLU(),
        "drop7": nn.Dropout(),
        "fc8": nn.Linear(4096, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))


def _caffe(request: NetworkRequest) -> _Built:
    if not request.fresh:
        raise InputError(f"nobody publishes weights of alexnet-caffe for torch: {WAYS_ON}")
    # Krizhevsky 2012, section 2: the shorter side to 256, then the centre
    return _Built(alexnet_caffe(request.outputs or 1000), (3, 227, 227), resize=Resize((256, 256), True))


OWN: dict[str, Callable[[NetworkRequest], _Built]] = {"alexnet-caffe": _caffe}


def settle(network: nn.Module, images: Tensor) -> None:
    """Gives an untrained network logits that differ between images, so that comparing them proves something.

    BatchNorm statistics become those of `images`; where the network gives one tensor, the last layer is scaled so that
    it has deviation 1. A
    variance below its layer's median is raised to it: a random channel that hardly varies would be blown up, layer
    after layer, until float32 rounding shows in the logits.
    """
    from compressor.survey import survey

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    with torch.no_grad():
        for batch in torch.split(images, 16):
            network(batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.running_var is not None:
                norm.running_var.clamp_(min=float(norm.running_var.median()))
        network.eval()
        if not isinstance(network(images[:1]), Tensor):
            return  # which layer gives which output nobody tells
        logits = torch.cat([network(batch) for batch in torch.split(images, 16)])
        layers = [row.name for row in survey(network, images[:1]).layers if row.calls]
        head = network.get_submodule(layers[-1]) if layers else nn.Identity()
        spread = float(logits.std())
        for value in (getattr(head, "weight", None), getattr(head, "bias", None)):
            if isinstance(value, Tensor) and spread > 0:
                value.div_(spread)
