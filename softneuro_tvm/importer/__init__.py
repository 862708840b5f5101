"""Stage `import`: a model file, an ONNX model or a Relax module becomes a `Graph` of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softneuro_tvm import zoo
from softneuro_tvm.errors import ModelError
from softneuro_tvm.graph import Graph
from softneuro_tvm.importer.passes import optimise

if TYPE_CHECKING:
    import onnx
    import tvm

__all__ = ["import_model"]


def import_model(
    model: str | Path | onnx.ModelProto | tvm.IRModule, *, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """Imports a model and optimises it.

    Args:
        model: Path of an ONNX file, ``zoo:NAME``, an `onnx.ModelProto`, or an `IRModule` with a Relax function.
        input_shapes: Shapes by input name, for inputs whose shapes the model leaves open.

    Raises:
        ModelError: the model is missing, malformed, or cannot be converted.
        UnsupportedOperatorError: it holds operators that TVM does not know.
        DynamicShapeError: an input's shape is not known.
    """
    import onnx

    shapes = dict(input_shapes or {})
    if isinstance(model, str) and model.startswith("zoo:"):
        return _from_onnx(zoo.resolve(model), model.removeprefix("zoo:"), f"model {model!r}", shapes)
    if isinstance(model, str | Path):
        from softneuro_tvm.importer.onnx_file import load_onnx

        return _from_onnx(load_onnx(Path(model)), Path(model).stem, f"model file {str(model)!r}", shapes)
    if isinstance(model, onnx.ModelProto):
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        return _from_onnx(copied, model.graph.name or "model", "the model", shapes)
    return _from_relax(model, shapes)


def _from_onnx(model: onnx.ModelProto, name: str, source: str, input_shapes: Mapping[str, Sequence[int]]) -> Graph:
    """Checks, converts, lowers and optimises; changes `model`."""
    from softneuro_tvm.importer import (
        onnx_convert,
        onnx_file,
        onnx_fold,
        onnx_preflight,
        onnx_quantized,
        relax_graph,
        relax_module,
    )

    onnx_file.check_not_external(model, source)
    model = onnx_preflight.inline_functions(model)
    onnx_quantized.expand_quantized_operators(model)
    onnx_preflight.name_nodes(model.graph)
    onnx_preflight.check_operators(model.graph, onnx_convert.supported_operators())
    onnx_file.check_structure(model, source)
    onnx_preflight.fix_input_shapes(model.graph, input_shapes)
    outputs = [output.name for output in model.graph.output]
    empty = onnx_preflight.empty_inputs(model.graph)
    try:
        onnx_fold.fold_constants(model)
        module, names = onnx_convert.convert(model, source)
        prepared = relax_module.prepare(module, empty)  # the front end reads an extent of 0 as an open one
        graph = relax_graph.graph_from_relax(prepared, "main", names=names, output_names=outputs, model=name)
    except ModelError as error:
        if empty:
            raise _nothing_to_compute(empty) from error
        raise
    return optimise(_checked(graph))


def _checked(graph: Graph) -> Graph:
    """The graph, if everything it reads has elements."""
    read = {tensor for layer in graph.layers for tensor in layer.inputs} | set(graph.outputs)
    shapes = {name: graph.tensors[name].shape for name in graph.inputs if name in read}
    if any(0 in shape for shape in shapes.values()):
        raise _nothing_to_compute(shapes)
    return graph


def _nothing_to_compute(shapes: Mapping[str, Sequence[int]]) -> ModelError:
    name, shape = next((name, shape) for name, shape in shapes.items() if 0 in shape)
    remedy = ",".join(str(max(extent, 1)) for extent in shape)
    return ModelError(
        f"input {name!r} has extent 0 at axis {list(shape).index(0)}: there is nothing to compute; if it stands for an "
        f'unknown extent, give one: --input-shapes "{name}:[{remedy}]"'
    )


def _from_relax(module: Any, input_shapes: Mapping[str, Sequence[int]]) -> Graph:
    import tvm

    from softneuro_tvm.importer import relax_graph, relax_module

    if not isinstance(module, tvm.IRModule):
        raise ModelError(
            f"cannot import a {type(module).__name__}; give a path, zoo:NAME, an onnx.ModelProto or an IRModule"
        )
    function = relax_module.entry_function(module)
    return optimise(_checked(relax_graph.graph_from_relax(relax_module.prepare(module, input_shapes), function)))
