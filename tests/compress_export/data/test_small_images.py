import numpy as np
import pytest
import torch
from PIL import Image

from compress_export.data.datasets import find_data, load_data
from compress_export.data.images import CIFAR10_CLASSES, SmallImages, View
from compress_export.errors import InputError

VIEW = View((3, 32, 32), (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))


@pytest.fixture
def sheets(tmp_path):
    """Ten classes, six training and two test images each, as one picture for each class and part; the pixels beside."""
    random, pixels = np.random.default_rng(0), {}
    (tmp_path / "cifar10").mkdir()
    for part, rows in (("train", 2), ("test", 1)):
        for place, name in enumerate(CIFAR10_CLASSES):
            columns = 3 if part == "train" else 2
            images = random.integers(0, 256, (rows * columns, 32, 32, 3), dtype=np.uint8)
            sheet = (
                images.reshape(rows, columns, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(32 * rows, 32 * columns, 3)
            )
            Image.fromarray(sheet).save(tmp_path / "cifar10" / f"{part}_{place}_{name}.webp", lossless=True)
            pixels[part, place] = images
    return tmp_path, pixels


def test_sheets_are_read_image_by_image(sheets):
    folder, pixels = sheets
    data = load_data(find_data("cifar10", folder), VIEW, 4, 10)
    validation = [
        (image, int(label)) for images, labels in data.test for image, label in zip(images, labels, strict=True)
    ]
    assert [label for _, label in validation] == [place for place in range(10) for _ in range(2)]
    mean, std = (np.array(values)[:, None, None] for values in (VIEW.mean, VIEW.std))
    expected = (pixels["test", 7][1].transpose(2, 0, 1) / 255 - mean) / std
    assert np.allclose(validation[15][0].numpy(), expected, atol=1e-5)
    assert len(data.train.dataset) + len(data.validation.dataset) == 60
    assert data.train.num_workers == 0


def test_fewer_training_images_can_be_asked_for(sheets):
    data = load_data(find_data("cifar10", sheets[0]), VIEW, 4, 10, most=20)
    assert (len(data.train.dataset), len(data.validation.dataset), len(data.test.dataset)) == (20, 9, 20)


def test_a_sheet_with_a_part_of_an_image_is_refused(sheets):
    path = sheets[0] / "cifar10" / "train_3_cat.webp"
    Image.new("RGB", (96, 40)).save(path)
    with pytest.raises(InputError, match=r"train_3_cat\.webp is 96x40, no whole rows of 32x32 images"):
        load_data(find_data("cifar10", sheets[0]), VIEW, 4, 10)


def test_augmented_images_are_shifted_and_mirrored_originals():
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    plain = SmallImages(pixels, [3], VIEW)[0][0]
    torch.manual_seed(0)
    changed = SmallImages(pixels, [3], VIEW, crop=True, flip=True)
    seen = {tuple(changed[0][0][:, 16, 16].tolist()) for _ in range(200)}
    originals = {tuple(plain[:, row, column].tolist()) for row in range(32) for column in range(32)}
    assert 50 < len(seen) <= 2 * 81
    assert seen <= originals
    assert changed[0][1] == 3


@pytest.mark.parametrize(("own", "asked"), [(1, 3), (3, 1)])
def test_channels_and_size_are_those_of_the_network(own, asked):
    pixels = torch.full((1, own, 28, 28), 102, dtype=torch.uint8)
    image, _ = SmallImages(pixels, [0], View((asked, 64, 64), (0.4,) * asked, (0.2,) * asked))[0]
    assert image.shape == (asked, 64, 64)
    assert float(image.abs().max()) < 1e-5


def test_a_batch_has_the_images_one_by_one_would_give():
    pixels = torch.randint(0, 256, (5, 3, 28, 28), dtype=torch.uint8)
    data = SmallImages(pixels, [4, 3, 2, 1, 0], VIEW)
    for (image, label), index in zip(data.__getitems__([3, 0, 3]), (3, 0, 3), strict=True):
        single, own = data[index]
        assert torch.equal(image, single)
        assert label == own == 4 - index
