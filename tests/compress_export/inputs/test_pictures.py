"""Users' pictures: each kind of file gives the right pixels, or one sentence; and each network its own resizing."""

import struct
import zlib
from dataclasses import asdict

import numpy as np
import pytest
import timm
import torch
from PIL import Image, PngImagePlugin
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torchvision import models, transforms

from compress_export.data.datasets import find_data, load_data
from compress_export.data.images import SmallImages, View
from compress_export.data.picture_files import read_image, transform
from compress_export.errors import InputError
from compress_export.models.networks import NetworkRequest, load_network
from compress_export.models.resize import Resize, chosen, whole
from compress_export.pipeline.load import recorded_resize
from compress_export.settings import SourceSettings

GREY = np.array([[0, 64], [128, 255]], np.uint8)
SIXTEEN = GREY.astype(np.uint16) * 257
RED = np.full((2, 2, 3), (200, 10, 30), np.uint8)


def with_a_long_text(path):
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "a" * 3_000_000, zip=True)
    Image.fromarray(GREY).save(path, pnginfo=text)


def deep_png(path):
    """A PNG of 16-bit RGB, which Pillow does not write: 0x80ff is 128 of 255."""
    rows = b"".join(b"\0" + struct.pack(">6H", *(0x80FF, 0, 0xFFFF) * 2) for _ in range(2))

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def huge_png(path):
    """A whole header of 20,000 x 20,000 pixels."""
    head = struct.pack(">2I5B", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT" + b"\0" * 13)


PIXELS = {
    "png, 16 bits grey": ("a.png", lambda path: Image.fromarray(SIXTEEN).save(path), GREY),
    "tiff, 16 bits grey": ("a.tif", lambda path: Image.fromarray(SIXTEEN).save(path), GREY),
    "tiff, 16 bits, other byte order": (
        "a.tiff", lambda path: Image.frombytes("I;16B", (2, 2), SIXTEEN.astype(">u2").tobytes()).save(path), GREY,
    ),

    "png, 16 bits, dark": (
        "b.png", lambda path: Image.fromarray(np.array([[128, 129], [385, 386]], np.uint16)).save(path),
        np.array([[0, 1], [1, 2]], np.uint8),
    ),
    "png, 16 bits in colour": ("a.png", deep_png, np.full((2, 2, 3), (128, 0, 255), np.uint8)),
    "png with a long text": ("a.png", with_a_long_text, GREY),
    "gif": ("a.gif", lambda path: Image.fromarray(GREY).save(path), GREY),
    "gif, two frames": (
        "a.gif",
        lambda path: Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(255 - GREY)]),
        GREY,
    ),
    "palette": ("a.png", lambda path: Image.fromarray(RED).quantize(4).save(path), RED),
    "transparent": ("a.png", lambda path: Image.fromarray(RED).convert("RGBA").save(path), RED),
    "cmyk": ("a.tif", lambda path: Image.fromarray(RED).convert("CMYK").save(path), RED),
    "one bit": ("a.png", lambda path: Image.fromarray(GREY > 100).save(path), (GREY > 100) * np.uint8(255)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "wanted"), PIXELS.values(), ids=PIXELS)
def test_a_picture_has_its_pixels_in_8_bits(tmp_path, name, write, wanted):
    write(tmp_path / name)
    found = np.asarray(read_image(str(tmp_path / name)))
    assert found.tolist() == (wanted if wanted.ndim == 3 else np.stack([wanted] * 3, 2)).tolist()


REFUSED = {
    "tiff of floats": ("a.tif", lambda path: Image.fromarray(GREY / np.float32(255)).save(path), "floating-point"),
    "tiff of 32 bits": ("a.tif", lambda path: Image.fromarray(GREY.astype(np.int32)).save(path), "32-bit whole number"),
    "400 megapixels": ("a.png", huge_png, "at most 178 million pixels are decoded, and it has more; store it smaller"),
    "no picture": ("a.jpg", lambda path: path.write_text("<html>"), "is not a whole image"),
    "empty": ("a.png", lambda path: path.write_bytes(b""), "is not a whole image"),
    "cut short": ("a.png", lambda path: (deep_png(path), path.write_bytes(path.read_bytes()[:50])), "is not a whole"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "message"), REFUSED.values(), ids=REFUSED)
def test_a_picture_that_cannot_be_right_is_one_sentence(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(InputError, match=message) as refused:
        read_image(str(tmp_path / name))
    assert str(tmp_path / name) in str(refused.value)


def folder(path, names):
    """A data folder of two classes with these files in each."""
    for part in ("train", "val"):
        for number, kind in enumerate(("ant", "bee")):
            (path / part / kind).mkdir(parents=True)
            for name in names:
                Image.new("L", (9, 7), 90 * number + 60).save(path / part / kind / name)
    return path


def test_gifs_are_read_and_other_files_are_counted(tmp_path):
    folder(tmp_path, ["a.png", "b.gif", "c.GIF", ".hidden.png"])
    for name in ("notes.txt", "d.heic", "Thumbs.db"):
        (tmp_path / "train" / "ant" / name).write_text("no picture")
    source = find_data(str(tmp_path), tmp_path)
    data = load_data(source, View((3, 8, 8), (0.0,) * 3, (1.0,) * 3), 2, 2)
    assert len(data.train.dataset) + len(data.validation.dataset) == 6
    (note,) = source.notes
    assert "their endings are not those of pictures: 2 (.heic 1, .txt 1); pictures end in .jpg" in note


@pytest.mark.parametrize("extra", [".ipynb_checkpoints", "__MACOSX", ".git"])
def test_a_systems_own_folder_is_no_class(tmp_path, extra):
    folder(tmp_path, ["a.png", "b.png"])
    (tmp_path / "train" / extra).mkdir()
    assert find_data(str(tmp_path), tmp_path).classes == ("ant", "bee")


FOLDERS = {
    "one class": (["a.png", "b.png", "c.png"], ["bee"], 1, 3, "has one class, ant, so every answer is right and accur"),
    "four channels": (["a.png"], [], 2, 4, "pictures have 3 channels, or 1 in grey, and the network takes 4"),
    "two channels": (["a.png"], [], 2, 2, "the network takes 2; pass --input with 1 or 3, or leave --data out"),
    "no pictures in a class": ([], [], 2, 3, "ant holds no pictures .*; put some there, or remove the class"),
}  # fmt: skip


@pytest.mark.parametrize(("names", "without", "outputs", "channels", "message"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_proves_nothing_is_one_sentence(tmp_path, names, without, outputs, channels, message):
    folder(tmp_path, names)
    for name in without:
        for part in ("train", "val"):
            for file in (tmp_path / part / name).iterdir():
                file.unlink()
            (tmp_path / part / name).rmdir()
    view = View((channels, 8, 8), (0.0,) * channels, (1.0,) * channels)
    with pytest.raises(InputError, match=message):
        load_data(find_data(str(tmp_path), tmp_path), view, 2, outputs)


def published_by_torchvision(name):
    return models.get_model_weights(name)["DEFAULT"].transforms()


def published_by_timm(name):
    return create_transform(**resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict()))


@pytest.mark.parametrize("channels", [2, 4])
def test_images_in_memory_have_their_own_channels(channels):
    view = View((channels, 8, 8), (0.0,) * channels, (1.0,) * channels)
    with pytest.raises(
        InputError, match=f"these images have 3 channels, or 1 in grey, and the network takes {channels};"
    ):
        SmallImages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [0, 1], view)


PUBLISHED = {
    "torchvision, bilinear": ("squeezenet1_1", published_by_torchvision),
    "torchvision, of its own sides": ("shufflenet_v2_x1_5", published_by_torchvision),
    "torchvision, bicubic": ("efficientnet_b0", published_by_torchvision),
    "timm, bilinear": ("test_resnet", published_by_timm),
    "timm, bicubic": ("mobilenetv3_small_050", published_by_timm),
    "timm, crop of 0.9": ("repvgg_a0", published_by_timm),
    "timm, nothing cropped": ("test_vit", published_by_timm),
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED.values(), ids=PUBLISHED)
def test_a_picture_is_shown_as_the_network_was_trained_to_see_it(name, published):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (231, 307, 3), np.uint8))
    network = load_network(NetworkRequest(name if published is published_by_torchvision else f"timm:{name}", "none"))
    assert torch.equal(transform(View.of(network))(picture), published(name)(picture))


OWN, SQUARE, WIDE = (3, 32, 32), Resize((256, 256), True), Resize((73, 146), True)
SET = {
    "a user's file": (OWN, whole(OWN), {}, Resize((32, 32), False)),
    "as published": ((3, 224, 224), SQUARE, {}, SQUARE),
    "shorter side": ((3, 224, 224), SQUARE, {"resize": (232,)}, Resize((232, 232), True)),
    "both sides": ((3, 224, 224), SQUARE, {"resize": (224, 300)}, Resize((224, 300), False)),
    "fraction": ((3, 240, 240), SQUARE, {"crop_pct": 0.9}, Resize((266, 266), True)),
    "whole fraction": ((3, 72, 72), SQUARE, {"crop_pct": 0.9}, Resize((80, 80), True)),
    "fraction of two sides": ((3, 64, 128), WIDE, {"crop_pct": 1.0}, Resize((64, 128), True)),
    "interpolation": (OWN, whole(OWN), {"interpolation": "bicubic"}, Resize((32, 32), False, "bicubic")),
}


@pytest.mark.parametrize(("size", "published", "settings", "wanted"), SET.values(), ids=SET)
def test_a_resizing_is_as_set_or_as_published(size, published, settings, wanted):
    assert chosen(published, size, SourceSettings("net", **settings)) == wanted


WRONG = {
    "both": ({"resize": (256,), "crop_pct": 0.9}, "source.resize and source.crop_pct both say how large"),
    "beyond 1": ({"crop_pct": 1.2}, "source.crop_pct 1.2: the fraction .* is at most 1"),
    "too small": ({"resize": (200,)}, "source.resize 200 leaves less than the 224x224 that the network takes"),
    "one side too small": ({"resize": (300, 200)}, "source.resize 300x200 leaves less"),
    "three sides": ({"resize": (3, 224, 224)}, "source.resize 3x224x224: it takes the shorter side, such as 256, or"),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_a_resizing_that_cannot_be_is_one_sentence(settings, message):
    with pytest.raises(InputError, match=message):
        chosen(SQUARE, (3, 224, 224), SourceSettings("net", **settings))


SHOWN = {
    "ratio kept": (
        SQUARE,
        (3, 224, 224),
        "resized to 256 pixels on its shorter side (bilinear), its centre cropped to 224x224",
    ),
    "exactly": (whole(OWN), OWN, "resized to 32x32, whatever its ratio (bilinear)"),
    "squashed": (
        Resize((256, 300), False, "bicubic"),
        (3, 224, 224),
        "resized to 256x300, whatever its ratio (bicubic), its centre cropped to 224x224",
    ),
    "two sides": (WIDE, (3, 64, 128), "resized to cover 73x146 (bilinear), its centre cropped to 64x128"),
}


@pytest.mark.parametrize(("resize", "size", "wanted"), SHOWN.values(), ids=SHOWN)
def test_what_is_done_to_a_picture_is_said(resize, size, wanted):
    assert resize.text(size) == wanted


@pytest.mark.parametrize(
    ("picture", "wanted"), [((307, 231), (340, 256)), ((231, 307), (256, 340)), ((9, 9), (256, 256))]
)
def test_the_shorter_side_is_exact_and_the_longer_one_rounded_down(picture, wanted):
    assert SQUARE.size(*picture) == wanted
    assert transforms.Resize(256)(Image.new("RGB", picture[::-1])).size == wanted[::-1]


def test_a_run_of_an_earlier_version_keeps_its_own_resizing():
    assert recorded_resize({"input": [3, 32, 32]}) == Resize((37, 37), False)
    assert recorded_resize({"input": [3, 32, 32], "resize": asdict(WIDE)}) == WIDE
