"""ONNX to Relax by TVM's front end, with converters that keep structure visible and node names that survive."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import onnx
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend as frontend

from softneuro_tvm.errors import ModelError
from softneuro_tvm.importer.onnx_converters import CONVERTERS


def supported_operators() -> frozenset[str]:
    """Operator types that TVM's front end converts."""
    return frozenset(frontend._get_convert_map())


def convert(model: onnx.ModelProto, source: str) -> tuple[Any, dict[str, str]]:
    """Converts a model.

    Args:
        model: Checked, with named nodes and fixed input shapes.
        source: What to call it in messages.

    Returns:
        The `IRModule`, and for each of its variables the name of the node that computes it.

    Raises:
        ModelError: TVM cannot convert a node; names it.
    """
    importer = _Importer()
    try:
        # the front end prints what it raises
        with contextlib.redirect_stdout(io.StringIO()):
            module = importer.from_onnx(model.graph, _opset(model))
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error.__cause__
    except Exception as error:  # the front end raises whatever happens to go wrong
        after = f" after node {importer.last_node!r}" if importer.last_node else ""
        raise ModelError(f"{source}: TVM's ONNX front end failed{after}: {_reason(error)}") from error
    return module, _with_steps(module["main"], importer.results)


def _with_steps(function: Any, results: dict[str, str]) -> dict[str, str]:
    """Adds the variables between nodes' results: each belongs to the node of its first reader."""
    found = dict(results)
    for block in reversed(list(function.body.blocks)):
        for binding in reversed(list(block.bindings)):
            var, read = str(binding.var.name), [str(free.name) for free in relax.analysis.free_vars(binding.value)]
            owner = found.get(read[0] if isinstance(binding.value, relax.Var) else var)
            if owner is not None:
                found[var] = owner
                found |= {name: owner for name in read if name not in results}
    return found


def _opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators that the model was written for."""
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


class _Importer(frontend.ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer; remembers which node computes which variable."""

    def __init__(self) -> None:
        super().__init__({}, "float32", sanitize=False)
        self.results: dict[str, str] = {}
        self.last_node = ""
        self._converters = {**frontend._get_convert_map(), **CONVERTERS}
        self._depth = 0

    def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> Any:
        self.last_node = attrs["tvm_custom"]["name"]
        try:
            value = self._converters[op_name].get_converter(opset)(self.bb, inputs, attrs, [self._nodes, self._params])
            return self._bound(value, is_sequence="Sequence" in op_name or "Optional" in op_name)
        except Exception as error:  # converters raise whatever happens to go wrong
            raise ModelError(
                f"TVM cannot convert operator {op_name} (node {self.last_node!r}): {_reason(error)}. "
                "Change it in the exporter, or cut the model before it"
            ) from error

    def _convert_subgraph(self, bb: Any, graph: Any) -> Any:
        self._depth += 1
        try:
            return super()._convert_subgraph(bb, graph)
        finally:
            self._depth -= 1

    def _bound(self, value: Any, is_sequence: bool) -> Any:
        """Binds a node's results to variables, as the front end does later; what lies in a branch stays unbound."""
        if not isinstance(value, relax.Expr):
            return value
        if self._depth:
            return self.bb.normalize(value)
        if isinstance(value, relax.Tuple):
            return self.bb.normalize(relax.Tuple([self._emitted(self.bb.normalize(field)) for field in value.fields]))
        value = self._emitted(self.bb.normalize(value))
        if isinstance(value.ty, relax.TupleType) and isinstance(value, relax.Var) and not is_sequence:
            fields = [self._emitted(relax.TupleGetItem(value, index)) for index in range(len(value.ty.fields))]
            return self.bb.normalize(relax.Tuple(fields))
        return value

    def _emitted(self, value: Any) -> Any:
        """A variable for a call or a field of a tuple; anything else as it is."""
        is_step = isinstance(value, relax.TupleGetItem) or (
            isinstance(value, relax.Call) and isinstance(value.ty, relax.TensorType | relax.TupleType | None)
        )
        if is_step:
            value = self.bb.emit(value)
        if isinstance(value, relax.Var):
            self.results.setdefault(str(value.name), self.last_node)
        return value
