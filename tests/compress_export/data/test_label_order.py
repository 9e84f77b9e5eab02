"""A network whose outputs stand in another order than the classes is told, and one that is merely bad is not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress_export.data.datasets import check_order, few_images
from compress_export.errors import InputError

CLASSES = ("ant", "bee", "cat", "dog", "eel")


class Answers(nn.Module):
    """Gives image number i (its one pixel) the class that a table says."""

    def __init__(self, table, classes=5):
        super().__init__()
        self.table, self.classes = torch.tensor(table), classes

    def forward(self, images):
        return nn.functional.one_hot(self.table[images[:, 0, 0, 0].long()], self.classes).float()


def batches(labels, size=16):
    images = torch.arange(len(labels)).reshape(-1, 1, 1, 1)
    return list(zip(images.split(size), torch.tensor(labels).split(size), strict=True))


def looked(answers, labels, classes=CLASSES):
    return check_order(Answers(answers, len(classes)), batches(labels), classes, "photos")


LABELS = torch.randint(0, 5, (100,), generator=torch.Generator().manual_seed(0)).tolist()


def noisy(labels, share, seed=1):
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(labels), generator=draw) < share
    other = torch.randint(0, 5, (len(labels),), generator=draw)
    return torch.where(wrong, other, torch.tensor(labels)).tolist()


def test_the_order_of_the_classes_is_silent():
    assert looked(LABELS, LABELS) == ""
    assert looked(noisy(LABELS, 0.5), LABELS) == ""


def test_two_classes_in_each_others_place_are_named():
    swapped = [{1: 2, 2: 1}.get(label, label) for label in noisy(LABELS, 0.1)]
    with pytest.raises(InputError, match=r"photos: .* and images of bee \(output 1\) mostly get output 2; name the"):
        looked(swapped, LABELS)


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(5)))
def test_every_other_order_is_told_and_the_given_one_never(order):
    answers = [order[label] for label in noisy(LABELS, 0.1)]
    if sum(order[place] != place for place in range(5)) >= 2 and order != sorted(order):
        with pytest.raises(InputError, match="stand in another order than the classes"):
            looked(answers, LABELS)
    else:
        assert looked(answers, LABELS) == ""


def test_a_network_that_knows_nothing_is_noted_and_not_called_reordered():
    said = looked(noisy(LABELS, 1.0), LABELS)
    assert said.endswith("that its outputs are these classes")
    assert "no more than by chance" in said


def test_too_few_images_of_each_class_are_no_other_order():
    many = tuple(f"class {place}" for place in range(200))
    labels = list(range(60))
    shifted = [label + 1 for label in labels]
    assert "no more than by chance" in looked(shifted, labels, many)


def test_no_more_images_are_read_than_are_needed():
    parts = batches(LABELS * 20)
    read = []

    def reading():
        for part in parts:
            read.append(len(part[1]))
            yield part

    check_order(Answers(LABELS * 20), reading(), CLASSES, "photos")
    assert sum(read) == 112


def test_few_validation_images_are_said_and_nothing_is_concluded_from_them():
    assert few_images(50) == ""
    said = "(15 % of the training images) decide on ranks, and"
    assert few_images(6).startswith(f"6 validation images {said} each is 16.7 points of top-1: too few to judge by")
    assert few_images(1).startswith(f"1 validation image {said} it is all of top-1: too few to judge by")
    assert looked([1], [1]) == ""
