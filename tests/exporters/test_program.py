import pytest
import torch
from exporter_networks import SIZE, images, small_network
from torch import nn

from exporters.artifact import ExportError
from exporters.capture import capture, input_shape, load, save
from exporters.outputs import Output, outputs_of


def error(module, channels=3):
    """Greatest error of the captured program, in parts of the logits' spread."""
    example = images(5, channels)
    program = capture(module, example)
    with torch.no_grad():
        expected = torch.cat([module(image[None]) for image in example])
        given = torch.cat([program.module()(image[None]) for image in example])
    return ((given - expected).abs().max() / expected.std()).item()


def operators(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_the_program_takes_one_image_and_matches_the_module():
    program = capture(small_network(), images())
    assert input_shape(program) == (1, 3, SIZE, SIZE)
    assert outputs_of(program) == (Output("logits", (10,), "logits"),)
    assert error(small_network()) < 1e-5


def test_batch_norm_is_folded_and_its_statistics_are_gone():
    program = capture(small_network(), images())
    assert not any("batch_norm" in name or "dropout" in name for name in operators(program))
    assert sorted(program.state_dict) == [
        "0.bias",
        "0.weight",
        "3.0.weight",
        "3.1.bias",
        "3.1.weight",
        "9.bias",
        "9.weight",
    ]


def test_the_module_is_left_as_it_was():
    module = small_network()
    module[4].train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    capture(module, images())
    assert module[4].training
    assert not module[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_a_saved_program_comes_back_without_the_example_image(tmp_path):
    module, path = small_network(), tmp_path / "original.pt2"
    program = capture(module, images())
    save(program, path)
    again = load(path)
    assert torch.equal(again.module()(images()[:1]), program.module()(images()[:1]))
    assert torch.count_nonzero(again.example_inputs[0][0]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["original.pt2"]


def test_a_missing_or_broken_program_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"there is no program at .*none.pt2; `exporters.capture.save` writes one"):
        load(tmp_path / "none.pt2")
    (tmp_path / "broken.pt2").write_bytes(b"no zip")
    with pytest.raises(ExportError, match=r"broken.pt2 is not a captured program \(.pt2\): .*; write it again"):
        load(tmp_path / "broken.pt2")


class Branching(nn.Module):
    def forward(self, image):
        return image if image.sum() > 0 else -image


def test_a_module_that_cannot_be_captured_is_refused_with_the_reason():
    with pytest.raises(ExportError, match=r"cannot follow Branching: Could not guard .*must not branch on the values"):
        capture(Branching(), images())


@pytest.mark.parametrize(
    "example", [torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.int64), torch.zeros(0, 3, 8, 8)]
)
def test_an_example_that_is_no_batch_of_images_is_refused(example):
    with pytest.raises(ExportError, match=r"a float32 batch of images \(N, C, H, W\), not torch\.(float32|int64) \("):
        capture(nn.Flatten(), example)


def test_attention_is_captured_without_its_fused_operator():
    module = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(SIZE * SIZE, 4, 32, batch_first=True)).eval()
    assert torch.backends.mha.get_fastpath_enabled()
    program = capture(module, images())
    assert not any("_transformer_encoder_layer_fwd" in name for name in operators(program))
    assert torch.backends.mha.get_fastpath_enabled()
    assert error(module) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet"])
def test_large_networks_match_their_modules(name):
    import torchvision

    torch.manual_seed(0)
    # googlenet warns that its initialization takes long unless told how
    options = {"init_weights": True} if name == "googlenet" else {}
    module = torchvision.models.get_model(name, weights=None, **options)
    example = nn.functional.interpolate(images(8), size=(224, 224), mode="bilinear")
    with torch.no_grad():
        for _ in range(3):
            module.train()(example)
        expected = module.eval()(example[:1])
    program = capture(module, example)
    assert ((program.module()(example[:1]) - expected).abs().max() / expected.std()).item() < 1e-5
    assert not any(name.startswith("aux") for name in program.state_dict)


def test_a_network_on_another_device_is_refused_with_the_cure():
    with pytest.raises(
        ExportError, match=r"on the CPU, and Sequential lies on meta; move it to the CPU with module.cpu"
    ):
        capture(small_network().to("meta"), images())
