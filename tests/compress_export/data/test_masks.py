"""Pictures with masks: folders and Pascal VOC's layout, and what is wrong with a mask."""

import numpy as np
import pytest
import torch
from PIL import Image

from compress_export.data.datasets import find_data, load_data
from compress_export.data.images import View
from compress_export.errors import InputError
from compressor.outputs import UNLABELLED

VIEW = View((3, 4, 4), (0.5,) * 3, (0.5,) * 3)


def picture(path, mask=None, size=(8, 8), folder="masks"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 255, np.uint8)).save(path)
    if mask is not None:
        (path.parents[1] / folder).mkdir(exist_ok=True)
        Image.fromarray(np.uint8(mask)).save(path.parents[1] / folder / f"{path.stem}.png")


MASK = np.kron([[0, 1], [2, 255]], np.ones((4, 4)))


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 8), ("val", 3)):
        for place in range(count):
            picture(tmp_path / part / "images" / f"{place}.jpg", MASK)
    return tmp_path


def loaded(folder, task="segment", outputs=3):
    return load_data(find_data(str(folder), folder), VIEW, 4, outputs, task=task)


def test_pictures_and_masks_are_resized_alike(folder):
    images, masks = next(iter(loaded(folder).test))
    assert (images.shape, masks.shape, masks.dtype) == ((3, 3, 4, 4), (3, 4, 4), torch.int64)
    assert masks[0].tolist() == np.kron([[0, 1], [2, 255]], np.ones((2, 2))).tolist()
    assert float(images.min()) > 0.9
    assert loaded(folder).labelled


def test_vocs_layout_is_read(tmp_path):
    names = tmp_path / "ImageSets" / "Segmentation"
    names.mkdir(parents=True)
    for part, count in (("train", 4), ("val", 2)):
        stems = [f"{part}{place}" for place in range(count)]
        (names / f"{part}.txt").write_text("\n".join(stems))
        for stem in stems:
            picture(tmp_path / "JPEGImages" / f"{stem}.jpg", MASK, folder="SegmentationClass")
    data = loaded(tmp_path)
    assert len(data.test.dataset) == 2
    assert next(iter(data.test))[1].unique().tolist() == [0, 1, 2, 255]


def wrong_size(folder):
    picture(folder / "val" / "images" / "0.jpg", MASK, size=(8, 10))
    return "0.png is 8x8, and its picture 10x8: a mask has the size of its picture"


def wrong_class(folder):
    picture(folder / "val" / "images" / "0.jpg", MASK + 4 * (MASK == 2))
    return "0.png has pixels of class 6, and the network knows classes 0 to 2 (255: none); map the masks' values"


def in_colour(folder):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "val" / "masks" / "0.png")
    return "a mask has one number of 8 bits for each pixel, its class; this one is of mode RGB"


def broken(folder):
    (folder / "val" / "masks" / "0.png").write_text("no picture")
    return "0.png is not a whole image"


def missing(folder):
    (folder / "val" / "masks" / "0.png").unlink()
    return "0.png is missing: each picture has a mask, a PNG of the picture's name; add it"


def no_pictures(folder):
    for path in (folder / "val" / "images").iterdir():
        path.unlink()
    return "holds no pictures in val/images; a segmenter's data are train/images, train/masks, val/images and val/masks"


@pytest.mark.parametrize("spoil", [wrong_size, wrong_class, in_colour, broken, missing, no_pictures])
def test_a_mask_that_does_not_fit_is_one_sentence(folder, spoil):
    text = spoil(folder)
    with pytest.raises(InputError) as error:
        _ = [loaded(folder).test.dataset[place] for place in range(3)]
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("classify", "holds masks, and a classifier is judged on a folder for each class; pass source.task=outputs"),
        (
            "embed",
            "holds masks, which source.task=segment reads and source.task=embed does not; pass a folder of pictures",
        ),
    ],
)
def test_masks_are_for_segmenters(folder, task, text):
    with pytest.raises(InputError, match=text):
        loaded(folder, task)


def test_pictures_alone_have_no_labels(tmp_path):
    for part, count in (("train", 4), ("val", 2)):
        for place in range(count):
            picture(tmp_path / part / f"{place}.png")
    for task in ("segment", "embed", "outputs"):
        data = loaded(tmp_path, task)
        assert not data.labelled
        assert next(iter(data.train))[1].unique().tolist() == [UNLABELLED]
    with pytest.raises(InputError, match="holds pictures without labels, and a classifier is judged on a folder for"):
        loaded(tmp_path, "classify")
