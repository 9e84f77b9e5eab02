"""ImageNet networks for results/int8.py, from files of weights that others published.

    WEIGHTS=FOLDER compress-export imagenet.py:mobilenet_v2 --input 3x224x224 ...

BatchNorm is folded into the convolutions, as these files have it: statistics of the few images that such a network can
be tuned on would only be noise. Both networks have ImageNet's 1000 outputs.
"""

import importlib.util
import os
from pathlib import Path

import onnx
import torch
import torchvision
from onnx import numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

WEIGHTS = Path(os.environ.get("WEIGHTS", "."))
"""The folder that holds mobilenet_v2_1.0_224_f32.onnx, and networks.py with `resnet18_vq`."""


def mobilenet_v2() -> nn.Module:
    """torchvision's MobileNetV2 with the weights of TensorFlow's, which an ONNX file holds in the order of the layers.
    Images are normalized by mean 0.5 and deviation 0.5.

    TensorFlow pads an image that a window of stride 2 reads at its right and bottom only, and has an output 0 for the
    background, which is left out.
    """
    network = folded(torchvision.models.mobilenet_v2(num_classes=1000))
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    graph = onnx.load(next(WEIGHTS.rglob("mobilenet_v2_1.0_224_f32.onnx"))).graph
    stored = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    for layer, node in zip(layers, convolutions, strict=True):
        weight, bias = (stored[name] for name in node.input[1:])
        if isinstance(layer, nn.Linear):
            weight, bias = weight[1:].flatten(1), bias[1:]
        layer.weight.data, layer.bias.data = weight, bias
    for block in [*network.modules()]:
        for name, layer in [*block.named_children()]:
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                layer.padding = (0, 0)
                setattr(block, name, nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), layer))
    return network.eval()


def resnet18() -> nn.Module:
    """ResNet-18 as `resnet18_vq` of networks.py decodes it. Images are normalized as ImageNet's usually are."""
    spec = importlib.util.spec_from_file_location("networks", next(WEIGHTS.rglob("networks.py")))
    assert spec is not None
    assert spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    return folded(networks.resnet18_vq()).eval()


def folded(network: nn.Module) -> nn.Module:
    """The network with every BatchNorm folded into the convolution in front of it, which then has a bias."""
    before: nn.Conv2d | None = None
    for block in [*network.modules()]:
        for name, layer in [*block.named_children()]:
            if isinstance(layer, nn.BatchNorm2d):
                assert before is not None
                assert layer.running_mean is not None
                assert layer.running_var is not None
                before.weight, before.bias = fuse_conv_bn_weights(
                    before.weight,
                    before.bias,
                    layer.running_mean,
                    layer.running_var,
                    layer.eps,
                    layer.weight,
                    layer.bias,
                )
                before.bias.requires_grad_()  # made of none that was trained
                setattr(block, name, nn.Identity())
            before = layer if isinstance(layer, nn.Conv2d) else before
    return network
