"""Resizing of a picture before its centre is cropped, as the weights of a network publish it or a user sets it."""

from __future__ import annotations

from dataclasses import dataclass

from compress_export.errors import InputError
from compress_export.settings import Interpolation, SourceSettings


@dataclass(frozen=True)
class Resize:
    """Resizing of a picture to `sides` (height, width), in front of a centre crop to the size that a network takes.

    With `keep_ratio` a picture gets the smallest size of its own ratio that covers the sides (its shorter side, where
    they are equal), else exactly these sides. A crop that reaches beyond them is black there.
    """

    sides: tuple[int, int]
    keep_ratio: bool
    interpolation: Interpolation = "bilinear"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a picture of `height` x `width` is resized to; the longer side is rounded down."""
        high, wide = self.sides
        if not self.keep_ratio:
            return high, wide
        if high * width >= wide * height:
            return high, width * high // height
        return height * wide // width, wide

    def scaled(self, published: tuple[int, ...], size: tuple[int, ...]) -> Resize:
        """The same for images of `size` in place of the `published` one, both (channels, height, width)."""
        high, wide = (
            round(side * new / old) for side, old, new in zip(self.sides, published[1:], size[1:], strict=True)
        )
        return Resize((high, wide), self.keep_ratio, self.interpolation)

    def text(self, size: tuple[int, ...]) -> str:
        """A clause on what happens to a picture before it is an image of `size` (channels, height, width)."""
        high, wide = self.sides
        image = f"{size[1]}x{size[2]}"
        if not self.keep_ratio:
            done = f"resized to {high}x{wide}, whatever its ratio ({self.interpolation})"
        elif high == wide:
            done = f"resized to {high} pixels on its shorter side ({self.interpolation})"
        else:
            done = f"resized to cover {high}x{wide} ({self.interpolation})"
        return done if not self.keep_ratio and self.sides == size[1:] else f"{done}, its centre cropped to {image}"


def whole(size: tuple[int, ...]) -> Resize:
    """Resizing to exactly the size (channels, height, width) that a network takes, so that nothing is cropped."""
    return Resize((size[1], size[2]), keep_ratio=False)


def chosen(published: Resize, size: tuple[int, ...], settings: SourceSettings) -> Resize:
    """The resizing for images of `size` (channels, height, width): as set, else as published.

    InputError for settings that exclude each other, or leave less than the crop needs.
    """
    if settings.resize is not None and settings.crop_pct is not None:
        raise InputError("source.resize and source.crop_pct both say how large a picture is resized; set one of them")
    sides, keep_ratio = published.sides, published.keep_ratio
    if settings.crop_pct is not None:
        if settings.crop_pct > 1:
            raise InputError(
                f"source.crop_pct {settings.crop_pct:g}: the fraction of a picture's side that is kept is at most 1"
            )
        # rounded down, as timm does; the summand is there for 0.9 times 240 and the like
        sides = (int(size[1] / settings.crop_pct + 1e-9), int(size[2] / settings.crop_pct + 1e-9))
        keep_ratio = True
    elif settings.resize is not None:
        asked = "x".join(map(str, settings.resize))
        if len(settings.resize) > 2:
            raise InputError(f"source.resize {asked}: it takes the shorter side, such as 256, or height x width")
        sides, keep_ratio = (settings.resize[0], settings.resize[-1]), len(settings.resize) == 1
        if sides[0] < size[1] or sides[1] < size[2]:
            raise InputError(
                f"source.resize {asked} leaves less than the {size[1]}x{size[2]} that the network takes; raise it, or "
                "lower --input"
            )
    return Resize(sides, keep_ratio, settings.interpolation or published.interpolation)
