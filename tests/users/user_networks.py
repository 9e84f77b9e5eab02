"""Networks as users write them: each asks something of its layers, or computes something, that a tool may get wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5


class Base(nn.Module):
    """Two convolutions and two fully connected layers on 3x8x8; the others change what happens between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.wide, self.head = nn.Linear(12 * 16, 24), nn.Linear(24, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu()).relu()

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.features(x), 2).flatten(1)
        return self.head(self.wide(x).relu())


class AsksIsinstance(Base):
    """The activation follows whatever is a convolution."""

    def features(self, x):
        for layer in (self.one, self.two):
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                x = x.relu()
        return x


class AsksType(Base):
    """The same by the exact class, as older code does."""

    def features(self, x):
        for layer in (self.one, self.two):
            x = layer(x)
            if type(layer) is nn.Conv2d:
                x = x.relu()
        return x


class AsksForNoSequential(Base):
    """Skips containers."""

    def features(self, x):
        for layer in self.children():
            if isinstance(layer, nn.Linear | nn.Sequential | nn.ModuleList):
                continue
            x = layer(x).relu()
        return x


class ReadsFeatures(Base):
    """Cuts the map to what the layer reads."""

    def forward(self, x):
        x = functional.max_pool2d(self.features(x), 2).flatten(1)[:, : self.wide.in_features]
        x = self.wide(x).relu().reshape(-1, self.wide.out_features)
        return self.head(x)


class ReadsGeometry(Base):
    """Pads by hand, from the layer's own numbers."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 12, (3, 5), dilation=(1, 2))

    def features(self, x):
        (height, width), (down, across) = self.one.kernel_size, self.one.dilation
        margin_y, margin_x = down * (height - 1) // 2, across * (width - 1) // 2
        x = self.one(functional.pad(x, (margin_x, margin_x, margin_y, margin_y)))
        assert (self.one.stride, self.one.groups, self.one.padding_mode) == ((1, 1), 1, "zeros")
        return self.two(x.relu()).relu()


class ReadsShape(Base):
    """Scales by the fan-in, which it takes from the weight's shape."""

    def features(self, x):
        fan_in = self.two.weight.shape[1] * self.two.weight.size(2)
        return self.two(self.one(x).relu()).relu() / fan_in**0.5


class ReadsType(Base):
    """Casts to the weight's type and device."""

    def features(self, x):
        return super().features(x.to(self.one.weight.device, self.one.weight.dtype))


class ReadsBias(Base):
    """One activation where there is a bias, another where there is none."""

    def features(self, x):
        x = self.one(x)
        x = x.relu() if self.one.bias is not None else x.sigmoid()
        return self.two(x).relu()


class ReadsMark(Base):
    """Layers carry an attribute of the user's."""

    def __init__(self):
        super().__init__()
        self.one.activation, self.two.activation = torch.tanh, torch.relu

    def features(self, x):
        for layer in (self.one, self.two):
            x = layer.activation(layer(x))
        return x


class Marked(nn.Conv2d):
    """A convolution with a gain that its network applies."""

    gain = 3.0


class OwnClass(Base):
    """A subclass without a forward of its own."""

    def __init__(self):
        super().__init__()
        self.two = Marked(12, 12, 3, padding=1)

    def features(self, x):
        x = self.two(self.one(x).relu())
        return (x * self.two.gain if isinstance(self.two, Marked) else x).relu()


class PlainList(Base):
    """Layers run from a Python list, which no state dict knows."""

    def __init__(self):
        super().__init__()
        self.order = [self.one, self.two]

    def features(self, x):
        for layer in self.order:
            x = layer(x).relu()
        return x


class KeyedByModule(Base):
    """A dict whose keys are layers."""

    def __init__(self):
        super().__init__()
        self.gains = {self.one: 0.5, self.two: 2.0}

    def features(self, x):
        for layer, gain in self.gains.items():
            x = (gain * layer(x)).relu()
        return x


class Hooked(Base):
    """A hook on a layer changes what it gives."""

    def __init__(self):
        super().__init__()
        self.one.register_forward_hook(lambda _layer, _inputs, output: 2 * output.abs())


class HookedBefore(Base):
    """A hook before a layer changes what it reads."""

    def __init__(self):
        super().__init__()
        self.two.register_forward_pre_hook(lambda _layer, inputs: (inputs[0].flip(2),))


class HookedSize(Base):
    """A hook halves the map after the layer, whose MACs are those of the whole map."""

    def __init__(self):
        super().__init__()
        self.two.register_forward_hook(lambda _layer, _inputs, output: functional.avg_pool2d(output, 2))

    def forward(self, x):
        return self.head(self.wide(self.features(x).flatten(1)).relu())


class Tapped(Base):
    """A hook that closes over this object: a copy of the network writes to the original's storage."""

    def __init__(self):
        super().__init__()
        self.seen = {}
        self.one.register_forward_hook(lambda _layer, _inputs, output: self.seen.update(one=output))

    def features(self, x):
        super().features(x)
        return self.seen["one"].relu() if "one" in self.seen else x.new_zeros(len(x), 12, 8, 8)


class WalksModules(Base):
    """Runs every convolution that it finds below itself, a layer's parts too."""

    def features(self, x):
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                x = module(x).relu()
        return x


class Patched(Base):
    """A layer whose forward was replaced on the object."""

    def __init__(self):
        super().__init__()
        self.two.forward = lambda x: functional.conv2d(x, 2 * self.two.weight, self.two.bias, padding=1)


class CountsParameters(Base):
    """Another activation where a layer has more than two parameters: as factors have."""

    def __init__(self):
        super().__init__()
        self.three = nn.Conv2d(12, 12, 3, padding=1)

    def features(self, x):
        x = self.three(self.one(x).relu()).relu()
        return self.two(x).relu() if len(list(self.two.parameters())) <= 2 else self.two(x)


class Functional(Base):
    """Reads a weight in every pass, without calling the layer that holds it."""

    def features(self, x):
        x = functional.conv2d(x, self.one.weight, self.one.bias, padding=1)
        return self.two(x.relu()).relu()


class Shifted(Base):
    """Adds a hook on the whole network after it, and reads its own state by name."""

    def features(self, x):
        scale = self.get_submodule("two").weight.ndim
        return super().features(x) * scale


class Grown(nn.Module):
    """A decoder: most of its work is done in a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 16, 4, stride=2, padding=1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.up(self.down(x).relu()).relu().mean((2, 3)))


class Sequence(nn.Module):
    """A one-dimensional convolution over the rows."""

    def __init__(self):
        super().__init__()
        self.stem, self.rows = nn.Conv2d(3, 4, 1), nn.Conv1d(4 * 8, 16, 3, padding=1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.rows(self.stem(x).flatten(1, 2)).relu().mean(2))


class Volume(nn.Module):
    """A three-dimensional convolution over the channels as depth."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 6, 3, padding=1), nn.Conv3d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.deep(self.stem(x)[:, None]).relu().mean((2, 3, 4)))


class Products(nn.Module):
    """Matrix products by einsum and matmul, with weights of its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 8, 3, padding=1), nn.Parameter(torch.randn(8, 16))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(torch.einsum("nchw,ck->nkhw", self.stem(x), self.mix).relu().mean((2, 3)))


class Attends(nn.Module):
    """An encoder layer, which torch computes by one operator where it can."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 2, stride=2)
        self.encoder, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.encoder(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


class Fourier(nn.Module):
    """A transform that no counter counts."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(torch.fft.rfft2(self.stem(x)).abs().mean((2, 3)))


class Recurrent(nn.Module):
    """A recurrent layer over the rows."""

    def __init__(self):
        super().__init__()
        self.stem, self.rows, self.head = nn.Conv2d(3, 4, 1), nn.LSTM(32, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.rows(self.stem(x).transpose(1, 2).flatten(2))[0][:, -1])


class Drops(Base):
    """A dropout without its flag."""

    def forward(self, x):
        x = functional.max_pool2d(self.features(x), 2).flatten(1)
        return self.head(functional.dropout(self.wide(x).relu(), 0.2))


class NoiseBlock(nn.Module):
    """Adds noise in every mode."""

    def forward(self, x):
        return x + 0.01 * torch.randn_like(x)


class Noisy(Base):
    """Noise in a block of its own."""

    def __init__(self):
        super().__init__()
        self.noise = NoiseBlock()

    def features(self, x):
        return self.noise(super().features(x))


class Remembers(Base):
    """A running mean of its own, moved in every pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(12, 1, 1))

    def features(self, x):
        x = super().features(x)
        self.mean.mul_(0.5).add_(x.mean((0, 2, 3))[:, None, None])
        return x - self.mean


class DropsInTraining(Base):
    """Dropout and noise as they should be: in training alone."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def features(self, x):
        x = functional.dropout(self.drop(super().features(x)), 0.5, self.training)
        return x + torch.randn_like(x) if self.training else x


class Normalized(Base):
    """A norm of the user's choice after the first layer."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def features(self, x):
        return self.two(self.norm(self.one(x)).relu()).relu()


class BatchNormByHand(Base):
    """The functional form, with its flag always on."""

    def features(self, x):
        return self.two(functional.batch_norm(self.one(x), None, None, training=True).relu()).relu()


class StaysInTraining(Base):
    """A network whose norm refuses to leave training mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(12)

    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self

    def features(self, x):
        return self.two(self.norm(self.one(x)).relu()).relu()


class Centres(Base):
    """Subtracts the mean image of the batch."""

    def features(self, x):
        return super().features(x - x.mean(0, keepdim=True))


class Sides(nn.Module):
    """Tells a picture that is bright on the left from one that is bright on the right, without any training."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(32, 2)
        with torch.no_grad():
            for layer, channels in ((self.stem, 3), (self.deep, 1)):
                layer.weight.mul_(0.1)
                layer.weight[0].zero_()[:channels, 1, 1] = 1
                layer.bias.zero_()[0] = 3
            self.head.weight.mul_(0.1)
            self.head.weight[:, :2] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
            self.head.bias.zero_()

    def forward(self, x):
        x = self.deep(self.stem(x).relu()).relu()
        return self.head(functional.adaptive_avg_pool2d(x, (1, 2)).flatten(1))


def frozen_sides() -> nn.Module:
    """The same with everything but its head frozen, as for transfer learning."""
    network = Sides()
    for layer in (network.stem, network.deep):
        layer.requires_grad_(False)
    return network
