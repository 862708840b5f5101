"""Stage `build`: one fresh Relax function that calls the chosen kernel of each layer, weights embedded."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx

from softneuro_tvm.activation_memory import place_activations
from softneuro_tvm.call_runs import merge_calls
from softneuro_tvm.candidates import adapter_workload
from softneuro_tvm.covers import planned_layers
from softneuro_tvm.device import Device, available_cores
from softneuro_tvm.errors import BuildError, PlanError
from softneuro_tvm.formats import OPEN, Format, TensorType, canonical_format, physical_shape
from softneuro_tvm.graph import Graph, Layer, Workload
from softneuro_tvm.kernel_objects import object_files, symbol, with_symbol
from softneuro_tvm.library import Library
from softneuro_tvm.object_cache import ObjectCache
from softneuro_tvm.plan import LayerChoice, Plan
from softneuro_tvm.registry import routine
from softneuro_tvm.routine import VIEW, Nested, Routine, Variant
from softneuro_tvm.runtime import MANIFEST_FUNCTION, Module
from softneuro_tvm.step_times import Step
from softneuro_tvm.weights import Weights

logger = logging.getLogger(__name__)


Packed = dict[tuple[str, str, Variant], Future[tuple[np.ndarray, ...]]]
"""The weights of a graph's layers as kernels read them, by layer, routine and variant."""


def build(
    graph: Graph,
    plan: Plan,
    device: Device,
    source: str = "",
    cache: ObjectCache | None = None,
    packed: Packed | None = None,
) -> Module:
    """Builds the module that a plan describes.

    Kernels that were compiled before, to be measured or for another module, are not compiled again.

    Args:
        graph: The network that the plan was made for.
        plan: What to use for each layer.
        device: What to generate code for.
        source: Where the model came from; goes into the manifest.
        cache: Where compiled kernels are kept; in the user's cache folder by default.
        packed: What several builds of the same graph share: weights that are in it are not packed again; changed.

    Raises:
        PlanError: the plan belongs to another graph.
        BuildError: code generation failed.
    """
    if plan.graph != graph.digest:
        raise PlanError(f"the plan was made for another model than {graph.name!r}; make a new one with `tune`")
    emitted = emit(graph, plan, device, packed)
    module, about = emitted.module, manifest(graph, plan, emitted, source)
    module.update(_constant_function(MANIFEST_FUNCTION, json.dumps(about, sort_keys=True)))
    target = tvm.target.Target(dict(device.target))
    try:
        calls, kernels = _lowered(module)
        objects = object_files(kernels, device.target, cache or ObjectCache())
        executable = relax.build(calls, target, relax_pipeline=tvm.transform.Sequential([]))
    except Exception as error:  # TVM raises many types
        raise BuildError(f"TVM could not build {graph.name!r}: {error}") from error
    library = Library(executable, objects, emitted.weights, device.threads, len(emitted.steps))
    return Module(library.module, about, library)


@dataclass(frozen=True)
class Emitted:
    """What a plan describes, before it is compiled.

    Args:
        module: The kernels and the Relax function ``main``, which calls them with their outputs as arguments and whose
            activations lie in one arena.
        weights: What the kernels read from their library.
        memory: Bytes: of the arena, the most of it that is needed at once, the weights as they are packed, and the
            largest workspace of a kernel.
        steps: Kernel calls, in the order in which the network makes them.
    """

    module: tvm.IRModule
    weights: Weights
    memory: dict[str, int]
    steps: tuple[Step, ...]


def emit(graph: Graph, plan: Plan, device: Device, packed: Packed | None = None) -> Emitted:
    """Generates what a plan describes, without compiling it.

    Args:
        graph: The network that the plan was made for.
        plan: What to use for each layer.
        device: What to generate code for.
        packed: See `build`.

    Raises:
        PlanError: the plan belongs to another graph.
        BuildError: code generation failed.
    """
    builder = _Builder(graph, plan, device, {} if packed is None else packed)
    emitted = builder.module()
    t = relax.transform
    passes = [t.InlinePrivateFunctions(), t.ToNonDataflow(), t.RemovePurityChecking(), t.CallTIRRewrite()]
    try:
        lowered = tvm.transform.Sequential(passes)(emitted)
        lowered, offsets, arena = place_activations(lowered, builder.in_place, builder.nested)
        module, weights, called = merge_calls(lowered, offsets, arena.size_bytes)
    except Exception as error:  # TVM raises many types
        raise BuildError(f"TVM could not lower {graph.name!r}: {error}") from error
    memory = {
        "arena_bytes": arena.size_bytes,
        "lower_bound_bytes": arena.lower_bound_bytes,
        "weights_bytes": builder.weights_bytes,
        "workspace_bytes": builder.workspace_bytes,
    }
    return Emitted(module, weights, memory, tuple(builder.steps.get(name, Step("", text)) for name, text in called))


def manifest(graph: Graph, plan: Plan, emitted: Emitted, source: str = "") -> dict[str, Any]:
    """What the module says about itself: inputs, outputs, device, versions, memory, steps, plan."""

    def ports(names: tuple[str, ...], tensors: tuple[str, ...]) -> list[dict[str, Any]]:
        types = [graph.tensors[tensor] for tensor in tensors]
        return [{"name": n, "shape": _shown(t), "dtype": t.dtype} for n, t in zip(names, types, strict=True)]

    return {
        "softneuro_tvm": version("softneuro_tvm"),
        "tvm": tvm.__version__,
        "model": graph.name,
        "source": source,
        "graph": graph.digest,
        "device": dict(plan.device),
        "inputs": ports(graph.inputs, graph.inputs),
        "outputs": ports(graph.output_names, graph.outputs),
        "memory": emitted.memory,
        "steps": [asdict(step) for step in emitted.steps],
        "plan": json.loads(plan.to_json()),
    }


def _lowered(module: tvm.IRModule) -> tuple[tvm.IRModule, dict[str, tirx.PrimFunc]]:
    """Functions of VM instructions that call kernels by name, and the kernels by symbol.

    TVM places the tensors that have no place in the arena, and adds kernels that compute shapes.
    """
    t = relax.transform
    lowered = tvm.transform.Sequential(
        [
            t.StaticPlanBlockMemory(),
            t.LowerAllocTensor(),
            t.KillAfterLastUse(),
            t.LowerRuntimeBuiltin(),
            t.ComputePrimValue(),
            t.VMShapeLower(),
            t.AttachGlobalSymbol(),
        ]
    )(module)
    kernels = {v: f for v, f in lowered.functions_items() if isinstance(f, tirx.PrimFunc)}
    named = {variable: relax.ExternFunc(symbol(function)) for variable, function in kernels.items()}
    functions = {v: _substitute(f, named) for v, f in lowered.functions_items() if v not in named}
    return tvm.IRModule(functions, attrs=lowered.attrs), {symbol(f): f for f in kernels.values()}


def _constant_function(name: str, text: str) -> tvm.IRModule:
    """A module with one function that returns a text."""
    block = relax.BlockBuilder()
    with block.function(name, []):
        block.emit_func_output(tvm.ir.StringImm(text))
    return block.finalize()


def _shown(tensor: TensorType) -> list[int | None]:
    """The shape; None for an extent that depends on data."""
    return [None if extent == OPEN else extent for extent in tensor.shape]


def _physical_type(tensor: TensorType, tensor_format: Format) -> Any:
    return relax.TensorType(physical_shape(tensor.shape, tensor_format.layout), tensor_format.dtype)


class _Builder:
    """Emits the Relax function of a plan."""

    def __init__(self, graph: Graph, plan: Plan, device: Device, packed: Packed) -> None:
        self.graph, self.plan, self.device, self.packed = graph, plan, device, packed
        self.block = relax.BlockBuilder()
        self.kernels: dict[tuple[str, str, Variant], Any] = {}
        self.available: dict[tuple[str, Format], Any] = {}
        self.source: dict[str, Format] = {}
        self.adapters = {(a.tensor, a.target): a for a in plan.adapters}
        self.in_place: dict[str, tuple[int, ...]] = {}
        self.nested: dict[str, Nested] = {}
        self.steps: dict[str, Step] = {}
        self.weights_bytes = self.workspace_bytes = 0

    def module(self) -> tvm.IRModule:
        """Kernels, and the function ``main`` that calls them."""
        types = self.graph.tensors
        parameters = [
            relax.Var(f"input_{i}", relax.TensorType(types[name].shape, types[name].dtype))
            for i, name in enumerate(self.graph.inputs)
        ]
        with self.block.function("main", parameters):
            with self.block.dataflow(), ThreadPoolExecutor(available_cores()) as pool:
                layers = list(planned_layers(self.graph, self.plan))
                for layer, choice in layers:
                    if (key := _packed_as(choice)) not in self.packed:
                        self.packed[key] = pool.submit(self._pack, layer, choice)
                for name, parameter in zip(self.graph.inputs, parameters, strict=True):
                    self._define(name, canonical_format(types[name]), parameter)
                for layer, choice in layers:
                    self._layer(layer, choice)
                results = [self._read(name, canonical_format(types[name])) for name in self.graph.outputs]
                output = self.block.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
            self.block.emit_func_output(output)
        return self.block.finalize()

    def _pack(self, layer: Layer, choice: LayerChoice) -> tuple[np.ndarray, ...]:
        return routine(choice.routine).pack(self.graph.workload(layer), choice.variant, layer.weights)

    def _define(self, tensor: str, tensor_format: Format, value: Any) -> None:
        self.source[tensor] = tensor_format
        self.available[tensor, tensor_format] = value

    def _read(self, tensor: str, wanted: Format) -> Any:
        """The tensor in a format; converts it on first use."""
        key = (tensor, wanted)
        if key not in self.available:
            adapter = self.adapters.get(key)
            if adapter is None:
                raise PlanError(f"the plan has no adapter of {tensor!r} to {wanted}; make a new one with `tune`")
            tensor_type = self.graph.tensors[tensor]
            workload = adapter_workload(tensor_type, adapter.source, adapter.target)
            value = self.available[tensor, adapter.source]
            step = Step(tensor, adapter.routine, adapter.median_s)
            self.available[key] = self._call(workload, adapter.variant, step, [value])[0]
        return self.available[key]

    def _layer(self, layer: Layer, choice: LayerChoice) -> None:
        workload = self.graph.workload(layer)
        if choice.layer != layer.name or choice.workload != workload.digest:
            raise PlanError(f"the plan's layer {choice.layer!r} is not the model's {layer.name!r}")
        inputs = [self._read(name, port) for name, port in zip(layer.inputs, choice.variant.inputs, strict=True)]
        packed = self.packed[_packed_as(choice)].result()
        self.weights_bytes += sum(array.nbytes for array in packed)
        step = Step(layer.name, choice.routine, choice.median_s)
        outputs = self._call(workload, choice.variant, step, inputs, packed)
        for name, port, value in zip(layer.outputs, choice.variant.outputs, outputs, strict=True):
            self._define(name, port, value)

    def _call(
        self, workload: Workload, variant: Variant, step: Step, inputs: list[Any], weights: Sequence[np.ndarray] = ()
    ) -> list[Any]:
        kernel = self._kernel(workload, step.routine, variant)
        name = f"step{len(self.steps)}_"
        self.steps[name] = step
        if kernel is not VIEW and kernel[1]:
            result = self.block.emit(relax.Call(kernel[0], [*inputs, *map(_copied, weights)]), name)
        else:
            types = [_physical_type(t, f) for t, f in zip(workload.outputs, variant.outputs, strict=True)]
            if kernel is VIEW:
                return [self.block.emit(relax.op.reshape(inputs[0], types[0].shape))]
            constant = _borrowed if _is_static(workload) else _copied
            result = self.block.emit(relax.call_tir(kernel[0], [*inputs, *map(constant, weights)], types), name)
        if not isinstance(result.ty, relax.TupleType):
            return [result]
        return [self.block.emit(relax.TupleGetItem(result, i)) for i in range(len(workload.outputs))]

    def _kernel(self, workload: Workload, name: str, variant: Variant) -> Any:
        """`VIEW`, or the global variable of a kernel and whether it is a Relax function; each is generated once."""
        key = (workload.digest, name, variant)
        if key not in self.kernels:
            emitted = _emitted(routine(name), workload, variant, self.device)
            self.workspace_bytes = max(self.workspace_bytes, routine(name).workspace_bytes(workload, variant))
            if emitted is VIEW:
                self.kernels[key] = VIEW
            elif isinstance(emitted, tvm.IRModule):
                self.kernels[key] = (self._add_region(emitted, name), True)
            else:
                kernel = self._add(emitted.kernel if isinstance(emitted, Nested) else emitted)
                self.kernels[key] = (kernel, False)
                if isinstance(emitted, Nested):
                    self.nested[kernel.name_hint] = emitted
                if positions := routine(name).in_place_inputs(workload, variant, self.device):
                    self.in_place[kernel.name_hint] = positions
        return self.kernels[key]

    def _add(self, kernel: tirx.PrimFunc) -> Any:
        return self.block.add_func(kernel, symbol(kernel))

    def _add_region(self, region: tvm.IRModule, name: str) -> Any:
        """Adds a Relax function and its kernels under names of their own; the function is inlined later."""
        functions = {v: f for v, f in region.functions_items() if v.name_hint != "main"}
        renamed = {v: self._add(with_symbol(f, f"{name}_{v.name_hint}")) for v, f in functions.items()}
        main = _substitute(region["main"], renamed)
        return self.block.add_func(main.without_attr("global_symbol"), f"region{len(self.kernels)}")


def _packed_as(choice: LayerChoice) -> tuple[str, str, Variant]:
    return choice.layer, choice.routine, choice.variant


@lru_cache(maxsize=512)
def _emitted(chosen: Routine, workload: Workload, variant: Variant, device: Device) -> Any:
    """What a routine emits, kernels under their symbols; plans of one network have most of it in common."""
    emitted = chosen.emit(workload, variant, device)
    if isinstance(emitted, Nested):
        return replace(emitted, kernel=with_symbol(emitted.kernel, chosen.name))
    return with_symbol(emitted, chosen.name) if isinstance(emitted, tirx.PrimFunc) else emitted


def _is_static(workload: Workload) -> bool:
    """True if kernel calls are merged, so that their weights are copied then, see `softneuro_tvm.call_runs`."""
    return all(OPEN not in tensor.shape for tensor in (*workload.inputs, *workload.outputs))


def _borrowed(array: np.ndarray) -> Any:
    """A constant in the array's own memory, if that is possible."""
    if array.size and array.flags.c_contiguous and array.flags.writeable:
        return relax.const(tvm_ffi.from_dlpack(array))
    return _copied(array)


def _copied(array: np.ndarray) -> Any:
    return relax.const(tvm.runtime.tensor(array))


def _substitute(function: Any, renamed: dict[Any, Any]) -> Any:
    """The function with global variables replaced."""

    @relax.expr_functor.mutator
    class Renamer(relax.PyExprMutator):  # type: ignore[misc]
        def visit_global_var_(self, variable: Any) -> Any:
            return renamed.get(variable, variable)

    return Renamer().visit_expr(function)
