"""The chosen path: the network's layers with their routines, conversions on the edges, laid out for drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from softneuro_tvm.formats import Format
from softneuro_tvm.plan import AdapterChoice, Plan
from softneuro_tvm.report.layered import Point, draw
from softneuro_tvm.report.timeline import Step, steps

_SIZES = {"layer": (208.0, 46.0), "adapter": (150.0, 20.0), "input": (120.0, 24.0), "output": (120.0, 24.0)}
_MARGIN = 12.0


@dataclass(frozen=True)
class Node:
    """A box of the drawing; what a model input or output is called is its name.

    Args:
        kind: What it stands for.
        name: Of the layer, or of the tensor.
        step: The call, for layers and adapters.
        x: Left edge.
        y: Upper edge.
        width: Of the box.
        height: Of the box.
        net: SVG path from it to its readers; empty if nothing reads it.
    """

    kind: Literal["layer", "adapter", "input", "output"]
    name: str
    step: Step | None
    x: float
    y: float
    width: float
    height: float
    net: str


@dataclass(frozen=True)
class Network:
    """The drawing.

    Args:
        nodes: In the order in which they run: model inputs first, outputs last.
        width: Of everything.
        height: Of everything.
    """

    nodes: tuple[Node, ...]
    width: float
    height: float


def network(plan: Plan) -> Network:
    """Lays a plan's network out.

    Tensors that no layer writes are the model's inputs; tensors that no layer reads, or that are converted for none,
    its outputs. Other tensors that are also returned are not marked: a plan does not tell.
    """
    calls = steps(plan)
    written = [tensor for choice in plan.layers for tensor in choice.outputs]
    read = [tensor for choice in plan.layers for tensor in choice.inputs]
    read_as = {key for choice in plan.layers for key in zip(choice.inputs, choice.variant.inputs, strict=False)}
    read_as |= {(adapter.tensor, adapter.source) for adapter in plan.adapters}
    converted = [adapter.tensor for adapter in plan.adapters]
    returned = [adapter.tensor for adapter in plan.adapters if (adapter.tensor, adapter.target) not in read_as]
    inputs = list(dict.fromkeys(tensor for tensor in (*read, *converted) if tensor not in set(written)))
    outputs = list(dict.fromkeys((*(tensor for tensor in written if tensor not in set(read)), *returned)))
    named: list[tuple[Literal["layer", "adapter", "input", "output"], str, Step | None]] = [
        *(("input", tensor, None) for tensor in inputs),
        *(("adapter" if step.is_adapter else "layer", step.name, step) for step in calls),
        *(("output", tensor, None) for tensor in outputs),
    ]
    sizes = [_SIZES[kind] for kind, _, _ in named]
    drawing = draw(sizes, _edges(plan, inputs, calls, outputs))
    nodes = []
    for (kind, name, step), (width, height), (x, y), pieces in zip(
        named, sizes, drawing.places, drawing.pieces, strict=True
    ):
        left, top = x - width / 2 + _MARGIN, y - height / 2 + _MARGIN
        nodes.append(Node(kind, name, step, round(left, 1), round(top, 1), width, height, _path(pieces)))
    return Network(tuple(nodes), drawing.width + 2 * _MARGIN, drawing.height + 2 * _MARGIN)


def _edges(plan: Plan, inputs: list[str], calls: tuple[Step, ...], outputs: list[str]) -> list[tuple[int, int]]:
    """From the node that yields a tensor in the wanted format to its reader."""
    producer = {tensor: number for number, tensor in enumerate(inputs)}
    converted: dict[tuple[str, Format], int] = {}
    edges = []
    for number, step in enumerate(calls, len(inputs)):
        work = step.work
        if isinstance(work, AdapterChoice):
            edges.append((_source(work.tensor, work.source, producer, converted), number))
            converted[work.tensor, work.target] = number
            continue
        edges += [
            (_source(tensor, port, producer, converted), number)
            for tensor, port in zip(work.inputs, work.variant.inputs, strict=False)
        ]
        producer |= dict.fromkeys(work.outputs, number)
    last = {adapter.tensor: adapter.target for adapter in plan.adapters if adapter.tensor in outputs}
    for number, tensor in enumerate(outputs, len(inputs) + len(calls)):
        source = converted.get((tensor, last[tensor])) if tensor in last else None
        edges.append((producer[tensor] if source is None else source, number))
    return edges


def _source(tensor: str, port: Format, producer: Mapping[str, int], converted: Mapping[tuple[str, Format], int]) -> int:
    return converted.get((tensor, port), producer[tensor])


def _path(pieces: tuple[tuple[Point, Point], ...]) -> str:
    """Lines with vertical ends, as the data of an SVG path."""
    parts, last = [], None
    for start, end in pieces:
        (x, y), (u, v) = ((a + _MARGIN, b + _MARGIN) for a, b in (start, end))
        if start != last:
            parts.append(f"M{x:.0f} {y:.0f}")
        half = (y + v) / 2
        parts.append(f"V{v:.0f}" if abs(x - u) < 0.5 else f"C{x:.0f} {half:.0f} {u:.0f} {half:.0f} {u:.0f} {v:.0f}")
        last = end
    return "".join(parts)
