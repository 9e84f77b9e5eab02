"""AlexNet as Caffe ships it and as the compression papers count it: two groups in conv2, conv4 and conv5."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional


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
