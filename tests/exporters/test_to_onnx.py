import onnx
import pytest
from exporter_networks import SIZE, images, small_network
from torch import nn

from exporters.artifact import ExportError
from exporters.capture import capture
from exporters.writers import to_onnx


def test_one_file_takes_image_and_gives_logits(tmp_path):
    to_onnx.export(capture(small_network(), images()), tmp_path / "x.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.onnx"]
    graph = onnx.load(tmp_path / "x.onnx").graph
    shape = [dimension.dim_value for dimension in graph.input[0].type.tensor_type.shape.dim]
    assert ([value.name for value in graph.input], shape) == (["image"], [1, 3, SIZE, SIZE])
    assert [value.name for value in graph.output] == ["logits"]


def test_what_torch_notes_beside_the_graph_is_left_out_and_names_stay(tmp_path):
    to_onnx.export(capture(small_network(), images()), tmp_path / "x.onnx")
    graph = onnx.load(tmp_path / "x.onnx").graph
    assert not [part for part in (*graph.node, *graph.value_info, graph) if part.metadata_props or part.doc_string]
    assert {"0.weight", "3.0.weight", "9.bias"} <= {tensor.name for tensor in graph.initializer}
    assert all(node.name for node in graph.node)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(432, 432)

    def forward(self, image):
        return self.layer(self.layer(image.flatten(1)).relu())


def test_a_layer_used_twice_is_stored_once(tmp_path):
    module = Shared().eval()
    to_onnx.export(capture(module, images()), tmp_path / "x.onnx")
    weights = sum(parameter.numel() * 4 for parameter in module.parameters())
    assert weights < (tmp_path / "x.onnx").stat().st_size < 1.1 * weights


def test_weights_beyond_one_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "LARGEST", 1000)
    expected = r"one ONNX file holds up to 1000 bytes, the weights are 5000; compress the network further"
    with pytest.raises(ExportError, match=expected):
        to_onnx.export(capture(small_network(), images()), tmp_path / "x.onnx")


def test_other_names_than_image_and_logits_are_refused(tmp_path):
    graph = onnx.helper.make_graph([], "net", [onnx.ValueInfoProto(name="x")], [])
    with pytest.raises(ExportError, match=r"x.onnx takes \['x'\] and gives \[\], not image and logits; report this"):
        to_onnx.check_names(onnx.helper.make_model(graph), tmp_path / "x.onnx")


def test_the_opset_and_type_are_what_onnx_runtime_reads_on_phones(tmp_path):
    to_onnx.export(capture(small_network(), images()), tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    assert {tensor.data_type for tensor in model.graph.initializer if tensor.dims} >= {onnx.TensorProto.FLOAT}
    assert {(entry.domain, entry.version >= 18) for entry in model.opset_import} == {("", True)}
