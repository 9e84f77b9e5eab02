import pytest
import torch
from PIL import Image

from compress_export.data.datasets import find_data, load_data
from compress_export.data.images import DigitImages, View
from compress_export.errors import InputError

VIEW = View((3, 16, 16), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_data(find_data("digits", tmp_path_factory.mktemp("data")), VIEW, 64, 10)


def rows(loader):
    return {tuple(image.flatten().tolist()) for images, _ in loader for image in images[:, 0, ::2, ::2]}


def test_the_three_parts_are_disjoint_and_whole(digits):
    train, validation, test = (len(part.dataset) for part in (digits.train, digits.validation, digits.test))
    assert (train, validation, test) == (1222, 215, 360)
    parts = [rows(part) for part in (digits.train, digits.validation, digits.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_the_test_set_is_balanced(digits):
    labels = torch.cat([labels for _, labels in digits.test])
    assert torch.bincount(labels).tolist() == pytest.approx([36] * 10, abs=2)


def test_one_seed_one_order(digits):
    def order(seed):
        digits.train.generator.manual_seed(seed)
        return torch.cat([labels for _, labels in digits.train]).tolist()

    assert order(1) == order(1) != order(2)


def test_digits_are_normalized_as_asked():
    digits = DigitImages(VIEW, range(40))
    images = torch.stack([digits[place][0] for place in range(40)])
    assert images.shape == (40, 3, 16, 16)
    assert (images.min(), images.max()) == (-2, 2)
    assert [digits[place][1] for place in range(10)] == list(range(10))


@pytest.fixture
def wnids(tmp_path):
    for part in ("train", "val"):
        for name in ("n02102040", "n01440764", "n03888257"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (20, 24), (number * 80, 0, 0)).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def test_wnids_map_onto_a_networks_own_thousand_outputs(wnids):
    data = load_data(find_data(str(wnids), wnids), VIEW, 2, 1000)
    assert sorted({int(label) for _, labels in data.test for label in labels}) == [0, 217, 701]


def test_wnids_of_no_imagenet_class_are_named(wnids):
    for part in ("train", "val"):
        (wnids / part / "n02102040").rename(wnids / part / "n99999999")
    with pytest.raises(InputError, match="n99999999 is none of ImageNet's 1000 classes"):
        load_data(find_data(str(wnids), wnids), VIEW, 2, 1000)


def test_a_folder_is_a_data_set_of_its_own_classes(wnids):
    data = load_data(find_data(str(wnids), wnids), VIEW, 2, 3)
    assert sorted({int(label) for _, labels in data.test for label in labels}) == [0, 1, 2]
    assert data.images(4).shape == (1, 3, 16, 16)  # one of the nine is held out


def test_too_few_images_are_refused(wnids):
    for name in ("n02102040", "n01440764"):
        for part in ("train", "val"):
            for file in (wnids / part / name).iterdir():
                file.unlink()
            (wnids / part / name).rmdir()
    for file in list((wnids / "val" / "n03888257").iterdir())[1:]:
        file.unlink()
    with pytest.raises(InputError, match="has 3 training and 1 test images; both need some"):
        load_data(find_data(str(wnids), wnids), VIEW, 2, 1)


def test_grey_networks_get_grey_images(tmp_path):
    data = load_data(find_data("digits", tmp_path), View((1, 28, 28), (0.5,), (0.5,)), 8, 10)
    assert data.images(2).shape == (2, 1, 28, 28)
