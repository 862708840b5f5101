"""A graph that is being changed: what the passes read and write. Needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer, topological_order


class Rewriter:
    """Layers and tensors of a graph, with who writes and who reads them kept up to date."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._layers = {layer.name: layer for layer in graph.layers}
        self._producers: dict[str, str] = {}
        self._readers: dict[str, dict[str, None]] = {}
        self.tensors: dict[str, TensorType] = dict(graph.tensors)
        self.outputs = graph.outputs
        for layer in graph.layers:
            self._enter(layer)

    def layers(self, *kinds: str) -> list[Layer]:
        """The layers of these kinds (of all kinds if none is given) as they are now, in the graph's order."""
        return [layer for layer in self._layers.values() if not kinds or layer.kind in kinds]

    def current(self, layer: Layer) -> Layer | None:
        """The layer that has this layer's name now; None if it was removed."""
        return self._layers.get(layer.name)

    def producer(self, tensor: str, *kinds: str) -> Layer | None:
        """The layer that writes a tensor, if there is one and it is of one of these kinds (or of any if none given)."""
        name = self._producers.get(tensor)
        layer = self._layers[name] if name is not None else None
        return layer if layer and (not kinds or layer.kind in kinds) else None

    def readers(self, tensor: str) -> list[Layer]:
        """The layers that read a tensor, each once."""
        return [self._layers[name] for name in self._readers.get(tensor, ())]

    def is_private(self, tensor: str) -> bool:
        """True if exactly one layer reads the tensor, and the model does not return it."""
        return len(self._readers.get(tensor, ())) == 1 and tensor not in self.outputs

    def replace(self, old: Layer, *new: Layer, types: Mapping[str, TensorType] | None = None) -> None:
        """Puts layers in a layer's place.

        Args:
            old: What goes.
            new: What comes, in order; nothing removes the layer.
            types: Types of tensors that did not exist before.
        """
        self.tensors |= types or {}
        entries = list(self._layers.items())
        position = next(i for i, (name, _) in enumerate(entries) if name == old.name)
        self._leave(old)
        entries[position : position + 1] = [(layer.name, layer) for layer in new]
        self._layers = dict(entries)
        for layer in new:
            self._enter(layer)

    def redirect(self, tensor: str, target: str) -> None:
        """Makes every reader of a tensor, and the model's outputs, use another tensor instead."""
        for layer in self.readers(tensor):
            inputs = tuple(target if name == tensor else name for name in layer.inputs)
            self.replace(layer, Layer(layer.name, layer.kind, layer.attributes, inputs, layer.outputs, layer.weights))
        self.outputs = tuple(target if name == tensor else name for name in self.outputs)

    def fresh_name(self, base: str) -> str:
        """A name that neither a layer nor a tensor has."""
        name, count = base, 1
        while name in self._layers or name in self.tensors:
            name, count = f"{base}_{count}", count + 1
        return name

    def graph(self) -> Graph:
        """The graph as it is now, without the layers whose outputs nobody uses."""
        live, wanted = [], set(self.outputs)
        waiting = [name for tensor in wanted if (name := self._producers.get(tensor)) is not None]
        seen = set(waiting)
        while waiting:
            for tensor in self._layers[waiting.pop()].inputs:
                name = self._producers.get(tensor)
                if name is not None and name not in seen:
                    seen.add(name)
                    waiting.append(name)
        live = [layer for layer in self._layers.values() if layer.name in seen]
        layers = topological_order(live, self._graph.inputs)
        known = {*self._graph.inputs, *(tensor for layer in layers for tensor in layer.outputs)}
        types = {name: tensor for name, tensor in self.tensors.items() if name in known}
        return Graph(layers, types, self._graph.inputs, self.outputs, self._graph.name, self._graph.output_names)

    def _enter(self, layer: Layer) -> None:
        for tensor in layer.outputs:
            self._producers[tensor] = layer.name
        for tensor in layer.inputs:
            self._readers.setdefault(tensor, {})[layer.name] = None

    def _leave(self, layer: Layer) -> None:
        for tensor in layer.outputs:
            del self._producers[tensor]
        for tensor in set(layer.inputs):
            del self._readers[tensor][layer.name]


def with_inputs(layer: Layer, inputs: Sequence[str]) -> Layer:
    """The same layer reading other tensors."""
    return Layer(layer.name, layer.kind, layer.attributes, tuple(inputs), layer.outputs, layer.weights)
