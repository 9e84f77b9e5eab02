"""Costs by predicted instructions: sums that can be added up by hand, and a file that was counted."""

import pytest
import torch
from torch import nn

from bench.devices import DEVICES
from bench.simulator.instructions import read_model
from compress_export.latency.instruction_costs import InstructionCosts
from compress_export.latency.program_operators import Operator, number_types, other_operators
from compressor.decompositions.methods import METHODS
from compressor.plan import LayerPlan, LayerVariant
from compressor.surgery import skeleton
from compressor.survey import survey
from exporters.capture import capture

IMAGE = torch.zeros(1, 3, 32, 32)


class Net(nn.Module):
    """Convolutions with what stands between them: a sum, clamps that are computed on the way and one that is not."""

    def __init__(self):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()
        self.one, self.two = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(32, 10)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.pool(self.relu(x + self.two(self.relu(self.one(x)))))
        return self.head(x[:, :, ::2, ::2].mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def program(network):
    return capture(network, IMAGE)


def test_operators_around_layers_are_those_that_the_engine_runs(program):
    pixels = 32 * 32 * 32
    found = other_operators(program, {})
    assert Operator("add", pixels) in found
    assert [each for each in found if each.kind == "clamp"] == [Operator("clamp", pixels)]  # a layer's own are fused
    assert Operator("image", 3 * 32 * 32) in found
    assert Operator("max_pool", 4 * pixels // 4) in found
    assert Operator("mean_outside", pixels // 16) in found  # no keepdim: not XNNPACK's
    assert [each.elements for each in found if each.kind == "slice"]
    assert Operator("transpose", pixels // 4) in found  # back to channels first for the slice
    kinds = {each.kind for each in other_operators(program, number_types(program, "int8"))}
    assert "clamp" not in kinds
    assert "convert" in kinds


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_costs_are_sums_of_their_kernels(network, program, dtype):
    found, model = survey(network, IMAGE), read_model(dtype)
    costs = InstructionCosts(found, program, dtype)
    variant = LayerVariant("one", "spatial", (16,))
    parts = METHODS["spatial"].parts(found.layer("one").shape, (16,))
    assert len(parts) == 2
    assert costs.cost(variant) == pytest.approx(sum(model.cost(part.shape) for part in parts))
    assert costs.cost(LayerVariant("one")) == pytest.approx(model.cost(found.layer("one").shape))
    kept = sum(model.layer(layer.shape) for layer in found.layers)
    found_others = other_operators(program, number_types(program, dtype))
    others = sum(read_model(each.dtype).operator(each.kind, each.elements) for each in found_others)
    assert costs.instructions() == pytest.approx(kept + others)
    saved = model.layer(found.layer("one").shape) - sum(model.layer(part.shape) for part in parts)
    assert costs.instructions([variant]) == pytest.approx(costs.instructions() - saved)
    assert costs.network() > costs.instructions()  # missed lines
    assert (costs.unit, costs.multiple) == ("instructions", {"float32": 8, "int8": 16}[dtype])


def test_the_source_names_core_runtime_number_type_and_error(network, program):
    source = InstructionCosts(survey(network, IMAGE), program, "int8").source
    assert source.startswith("predicted instructions of a cortex-a76 in ExecuTorch 1.")
    assert ", int8, " in source
    assert f"{100 * read_model('int8').worst:.1f} % at most" in source


def test_a_layer_that_never_runs_costs_nothing(network, program):
    network.spare = nn.Conv2d(4, 4, 3)
    try:
        found = survey(network, IMAGE)
        assert InstructionCosts(found, program).cost(LayerVariant("spare")) == 0
    finally:
        del network.spare


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_file_takes_the_instructions_that_were_predicted(runner, network, program, tmp_path, dtype):
    from exporters.export import export_program
    from exporters.quantization.post_training import PLAIN, quantize

    assert runner.exists()
    images = torch.randn(8, 3, 32, 32).numpy()
    variant = LayerVariant("two", "tucker", (16, 16))
    costs = InstructionCosts(survey(network, IMAGE), program, dtype)
    plan = [LayerPlan("two", (32, 32, 3, 3), variant.method, variant.rank, "")]
    skeleton(small := Net().eval(), plan)
    for module, predicted in ((network, costs.instructions()), (small, costs.instructions([variant]))):
        own = capture(module, IMAGE)
        if dtype == "int8":
            own = quantize(own, images, PLAIN).program
        artifact = export_program(own, "pte", tmp_path / "net.pte")
        (row,) = DEVICES["arm"].measure([artifact], images)
        assert predicted == pytest.approx(row.run.instructions, rel=0.05)
