"""A plan written into its ONNX model, for Netron: each node says which routine computes it and how long that takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from softneuro_tvm.errors import ModelError
from softneuro_tvm.files import write_atomically
from softneuro_tvm.importer.onnx_preflight import inline_functions, name_nodes
from softneuro_tvm.plan import LayerChoice, Plan
from softneuro_tvm.report.timeline import layouts

PREFIX = "softneuro_tvm."
"""Of the keys among `metadata_props`."""

_ABSORBING = frozenset(
    {"conv2d", "conv_pool", "conv_transpose2d", "dense", "elementwise", "inverted_residual", "matmul"}
)
"""Layer kinds that take arithmetic on their result into themselves."""
_ARITHMETIC = frozenset(
    "Add BatchNormalization Clip Div Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Mish Mul Neg PRelu Pow "
    "Relu Sigmoid Softplus Sqrt Sub Tanh".split()
)
_SHAPES = frozenset({"Constant", "ConstantOfShape", "Shape", "Size"})
"""Operators whose results are known before the network runs."""


def annotate(onnx_model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Copies a model and writes the plan into its nodes' `metadata_props` and `doc_string`.

    Layers bear the name of a node: of the one whose result they start from (a convolution keeps its name when batch
    normalisation and activation are taken into it), or of the last of a pattern (layer normalisation). Such nodes are
    matched by name. The others are inferred from the graph, and the key ``match`` says so: arithmetic on the result of
    a layer that can take it in belongs to that layer; any other node to the only layer without a node that reads what
    the node reads, else to the layer that alone reads its result.

    What cannot be mapped stays as it is: nodes that the importer folded into constants, nodes in the branches of If
    and the bodies of Loop, other nodes whose result several layers read, and those of several layers that the importer
    made of one node that do not bear its name. Functions of the model are written out and nodes without a name get
    the importer's, as its layers are named after these. Conversions have no node; their reader's layouts tell of them.

    Args:
        onnx_model: The model that the plan was made for; is not changed.
        plan: What to write.

    Raises:
        ModelError: no layer of the plan bears the name of one of the model's nodes.
    """
    model = onnx.ModelProto()
    model.CopyFrom(onnx_model)
    model = inline_functions(model)
    name_nodes(model.graph)
    by_name = {name: choice for choice in plan.layers for name in choice.covers or (choice.layer,)}
    matched = {node.name: by_name[node.name] for node in model.graph.node if node.name in by_name}
    if not matched:
        raise ModelError(
            f"none of the {len(plan.layers)} layers of the plan of {plan.model!r} is a node of this model; "
            "give the model that the plan was made for"
        )
    owners = _inferred(model.graph, matched, plan)
    for node in model.graph.node:
        if node.name in owners:
            _write(node, owners[node.name], plan, "name" if node.name in matched else "inferred")
    _set(model.metadata_props, {"model": plan.model, "predicted_ms": f"{plan.predicted_s * 1e3:.6g}"})
    return model


def write_annotated(onnx_model: onnx.ModelProto, plan: Plan, path: str | Path) -> None:
    """Writes the annotated model to a file, whole or not at all.

    Raises:
        ModelError: the plan belongs to another model, or the model is too large for one file.
        BuildError: the file cannot be written.
    """
    try:
        data = annotate(onnx_model, plan).SerializeToString()
    except ValueError as error:  # protobuf takes at most 2 GiB
        raise ModelError(
            f"the annotated model cannot be written as one file ({error}); a file holds at most 2 GiB"
        ) from error
    write_atomically(Path(path), data)


def _inferred(graph: onnx.GraphProto, matched: dict[str, LayerChoice], plan: Plan) -> dict[str, LayerChoice]:
    """The layer of each node, by node name: first from producers to readers, then the other way."""
    order = {id(choice): number for number, choice in enumerate(plan.layers)}
    owners = dict(matched)
    bearers = {id(choice) for choice in matched.values()}
    nameless = [choice for choice in plan.layers if id(choice) not in bearers]
    producer = {output: node for node in graph.node for output in node.output if output}
    known: set[str] = set()  # nodes whose results are known before the network runs
    for node in graph.node:
        sources = [producer[name] for name in node.input if name in producer]
        if node.op_type in _SHAPES or (sources and all(source.name in known for source in sources)):
            known.add(node.name)
            continue
        found = [owners[source.name] for source in sources if source.name in owners]
        if node.name in owners or not found:
            continue
        last = max(found, key=lambda choice: order[id(choice)])
        if node.op_type in _ARITHMETIC and last.kind in _ABSORBING:
            owners[node.name] = last
            continue
        read = {tensor for choice in found for tensor in choice.outputs}
        fitting = [choice for choice in nameless if read & set(choice.inputs)]
        if len(fitting) == 1:
            owners[node.name] = fitting[0]
            nameless.remove(fitting[0])
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            if name in producer:
                readers.setdefault(producer[name].name, []).append(node.name)
    for node in reversed(graph.node):
        if node.name in owners or node.name in known or not readers.get(node.name):
            continue
        following = [owners.get(reader) for reader in readers[node.name]]
        first = following[0]
        if first is not None and all(choice is first for choice in following):
            owners[node.name] = first
    return owners


def _write(node: onnx.NodeProto, choice: LayerChoice, plan: Plan, match: str) -> None:
    milliseconds = f"{choice.median_s * 1e3:.4g}"
    share = choice.median_s / plan.predicted_s if plan.predicted_s else 0.0
    entries = {
        "layer": choice.layer,
        "kind": choice.kind,
        "routine": choice.routine,
        "descriptor": choice.descriptor,
        "layouts": layouts(choice),
        "ms": milliseconds,
        "share": f"{share:.2%}",
        "match": match,
    }
    if choice.covers:
        entries["covers"] = " + ".join(choice.covers)
    _set(node.metadata_props, entries)
    part = "" if match == "name" and not choice.covers else f" as part of {choice.layer}"
    text = f"{choice.routine} in {layouts(choice)}, {milliseconds} ms ({share:.1%}){part}"
    node.doc_string = f"{node.doc_string}\n{text}" if node.doc_string else text


def _set(properties: Iterable[onnx.StringStringEntryProto], entries: dict[str, str]) -> None:
    """Sets entries, those of an earlier plan included."""
    present = {entry.key: entry for entry in properties}
    for key, value in entries.items():
        entry = present.get(PREFIX + key) or properties.add()  # type: ignore[attr-defined]
        entry.key, entry.value = PREFIX + key, value
