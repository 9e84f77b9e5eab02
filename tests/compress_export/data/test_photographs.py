import torch

from compress_export.data.images import View, photograph_crops


def test_crops_are_real_different_and_the_same_every_time():
    view = View((3, 32, 48), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    crops = photograph_crops(view, 6)
    assert crops.shape == (6, 3, 32, 48)
    assert -1 <= float(crops.min()) < -0.8
    assert 0.8 < float(crops.max()) <= 1
    assert torch.equal(crops, photograph_crops(view, 6))
    assert torch.pdist(crops.flatten(1)).min() > 1


def test_other_channels_get_the_grey_picture():
    grey = photograph_crops(View((1, 16, 16), (0.0,), (1.0,)), 2)
    colour = photograph_crops(View((3, 16, 16), (0.0,) * 3, (1.0,) * 3), 2)
    torch.testing.assert_close(grey[:, 0], colour.mean(1))
