"""Operators that no other kind describes: they fall through to TVM, a run of neighbours at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.formats import OPEN, TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind


@dataclass(frozen=True)
class RelaxAttributes:
    """Attributes of a fall-through layer.

    Args:
        module: JSON text of an `IRModule` with one Relax function ``main`` of operators that are not yet legalised.
            Its parameters are the layer's inputs x0, x1.. and then its constants w0, w1..; it returns a tensor or a
            tuple of tensors, the layer's outputs.
    """

    module: str

    def load(self) -> Any:
        """The `IRModule`."""
        import tvm

        return tvm.ir.load_json(self.module)


def tensor_type(value_type: Any) -> TensorType | None:
    """The tensor type that a Relax type stands for.

    Returns:
        None for what is no tensor, or has no known rank; extents that depend on data are `OPEN`.
    """
    from tvm import relax, tirx

    if not isinstance(value_type, relax.TensorType) or value_type.ndim < 0:
        return None
    known = isinstance(value_type.shape, relax.ShapeExpr)
    extents = value_type.shape.values if known else [None] * value_type.ndim
    shape = tuple(int(extent) if isinstance(extent, tirx.IntImm) else OPEN for extent in extents)
    return TensorType(shape, str(value_type.dtype))


def weight_names(count: int) -> tuple[str, ...]:
    """Names of a layer's constants in the order of the parameters: ``w0``, ``w1``... (not alphabetical beyond ten)."""
    return tuple(f"w{index}" for index in range(count))


class Relax(LayerKind):
    """Whatever the Relax function computes: any operators, element types, numbers of inputs and outputs."""

    name = "relax"
    Attributes = RelaxAttributes
    has_reference = False

    def output_types(
        self, attributes: RelaxAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """What the function returns."""
        returned = attributes.load()["main"].ret_ty
        fields = list(returned.fields) if hasattr(returned, "fields") else [returned]
        return tuple(found for field in fields if (found := tensor_type(field)) is not None)

    def reference(
        self, attributes: RelaxAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """There is none (`has_reference` is False).

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("layer kind 'relax' has no numpy reference; compare its candidates with one another")

    def sample(self, workload: Workload, seed: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Values that any operator can take: floats in [0.5, 1.5), integers 1 (a divisor, an index), true."""
        rng = np.random.default_rng(seed)

        def draw(tensor: TensorType) -> np.ndarray:
            if np.dtype(tensor.dtype).kind in "iub":
                return np.ones(tensor.shape, tensor.dtype)
            return np.asarray(rng.uniform(0.5, 1.5, tensor.shape)).astype(tensor.dtype)

        return [draw(t) for t in workload.inputs], {name: draw(t) for name, t in workload.weights}

    def examples(self) -> Iterable[Workload]:
        """A chain that TVM fuses, two outputs with a view, a constant, integer elements."""
        import tvm
        from tvm import relax

        op = relax.op

        def workload(shapes: Sequence[TensorType], weights: Sequence[TensorType], body: Any) -> Workload:
            builder = relax.BlockBuilder()
            named = [
                *((f"x{i}", t) for i, t in enumerate(shapes)),
                *zip(weight_names(len(weights)), weights, strict=True),
            ]
            parameters = [relax.Var(name, relax.TensorType(t.shape, t.dtype)) for name, t in named]
            with builder.function("main", parameters):
                with builder.dataflow():
                    results = [builder.emit_output(result) for result in body(builder, *parameters)]
                builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))
            attributes = RelaxAttributes(tvm.ir.save_json(builder.finalize()))
            return self.workload(attributes, shapes, dict(zip(weight_names(len(weights)), weights, strict=True)))

        x, y = TensorType((2, 6, 5, 5)), TensorType((2, 6, 10, 10))

        def fused(builder: Any, a: Any) -> list[Any]:
            return [op.tanh(builder.emit(op.nn.pad(builder.emit(op.cos(a)), (0, 0, 0, 0, 1, 1, 1, 1))))]

        def two(builder: Any, a: Any, b: Any) -> list[Any]:
            large = builder.emit(op.image.resize2d(a, relax.ShapeExpr([10, 10]), method="nearest_neighbor"))
            total = builder.emit(op.add(large, b))
            return [total, op.reshape(total, (2, 600))]

        def constant(builder: Any, a: Any, w: Any) -> list[Any]:
            return [op.where(builder.emit(op.greater(a, w)), a, w)]

        yield workload([x], [], fused)
        yield workload([x, y], [], two)
        yield workload([x], [TensorType((1, 6, 1, 1))], constant)
        yield workload([TensorType((3, 4), "int64")], [], lambda builder, a: [op.astype(op.add(a, a), "float32")])
