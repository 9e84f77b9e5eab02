"""nn.Module -> CoreML .mlpackage (mlprogram, iOS 15 and later). It converts anywhere and predicts on macOS only.

What cannot be run here is read back: the stored package's input, output and weights against the module's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.artifact import ExportError, Runner, Written
from exporters.toolkits import quiet, reason, versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

REQUIRES = ("coremltools", "torch")

DTYPE = "float16"
"""What the package stores and computes in: CoreML's default, and the only type that its Neural Engine runs."""


def export(program: ExportedProgram, path: Path) -> Written:
    """Writes `program` to `path` as an mlprogram: float16 inside, float32 "image" in and "logits" out.

    Raises ExportError when CoreML lacks an operator (named), or when the stored package is not what was asked for.
    """
    versions(REQUIRES)
    with quiet():
        import coremltools

        try:
            model = coremltools.convert(
                program.run_decompositions({}),
                source="pytorch",
                convert_to="mlprogram",
                minimum_deployment_target=coremltools.target.iOS15,
                compute_precision=coremltools.precision.FLOAT16,
                outputs=[coremltools.TensorType("logits")],
                skip_model_load=True,
            )
        except Exception as error:  # coremltools raises many kinds; the first line says which operator
            raise ExportError(
                f"CoreML cannot express the network: {reason(error)}; "
                "leave the mlpackage format out or replace that operator"
            ) from error.with_traceback(None)  # its frames hold a temporary folder, gone with them here
        spec = model.get_spec()
        # the captured input bears the name of the argument of the module's forward
        coremltools.utils.rename_feature(spec, spec.description.input[0].name, "image")
        coremltools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(path))
    return Written(dtype=DTYPE, inspected=inspect(program, path))


def load(path: Path, threads: int) -> Runner:  # noqa: ARG001  # Core ML decides itself; the others take threads
    """A function that runs the package through Core ML on its CPU. ExportError anywhere but on macOS."""
    if sys.platform != "darwin":
        raise ExportError(
            f"CoreML predicts on macOS only, this is {sys.platform}; run {path.name} on a Mac or an iPhone"
        )
    versions(REQUIRES)
    import coremltools
    import numpy as np

    model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(model.predict({"image": image})["logits"], dtype=np.float32)

    return run


def inspect(program: ExportedProgram, path: Path) -> str:
    """What the stored package was found to hold, in one line: weights that match, input, output.

    A weight matches when the package holds one of as many numbers that all agree within float16 rounding. The converter
    may merge a scale into the layer before it: then the numbers agree up to a factor for each channel. Raises
    ExportError when input or output differ, or a weight of two or more dimensions agrees with none.
    """
    import coremltools

    from exporters.capture import input_shape, output_shape
    from exporters.coreml_weights import compare_weights

    spec = coremltools.utils.load_spec(str(path))
    image = _one_feature(spec.description.input, "image", input_shape(program), path)
    logits = _one_feature(spec.description.output, "logits", output_shape(program), path)
    weights = {name: tensor for name, tensor in program.state_dict.items() if tensor.is_floating_point()}
    merged, lost = compare_weights(weights, spec.mlProgram, path)
    if lost:
        raise ExportError(
            f"{path.name} does not hold the network's weights: {', '.join(lost[:5])} differ beyond float16 rounding "
            f"({len(lost)} of {len(weights)}); report this as a bug"
        )
    aside = f" ({', '.join(merged)} merged by the converter)" if merged else ""
    found = f"{len(weights) - len(merged)} of {len(weights)} stored weights match within float16"
    return f"{found}{aside}, input {image}, output {logits}"


def _one_feature(features: Any, name: str, shape: tuple[int, ...], path: Path) -> str:
    described = [(feature.name, tuple(feature.type.multiArrayType.shape)) for feature in features]
    if described != [(name, shape)]:
        raise ExportError(f"{path.name} describes {described}, the network has {[(name, shape)]}; report this as a bug")
    return f"{name} {'x'.join(str(size) for size in shape)}"
