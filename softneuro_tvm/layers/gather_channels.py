"""Any selection of channels from several maps: concatenation, channel shuffle and split along C in one step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.layer_kind import LayerKind


@dataclass(frozen=True)
class GatherChannelsAttributes:
    """Attributes of a channel selection.

    Args:
        sources: For each output channel the input's number and the channel in that input.
    """

    sources: tuple[tuple[int, int], ...]


class GatherChannels(LayerKind):
    """``y[:, j] = inputs[sources[j][0]][:, sources[j][1]]``. Shapes: inputs [N, Ci, H, W]; y [N, K, H, W]."""

    name = "gather_channels"
    Attributes = GatherChannelsAttributes

    def output_types(
        self, attributes: GatherChannelsAttributes, inputs: Sequence[TensorType], weights: Mapping[str, TensorType]
    ) -> tuple[TensorType, ...]:
        """Shape [N, K, H, W]."""
        n, _, h, w = inputs[0].shape
        return (TensorType((n, len(attributes.sources), h, w), inputs[0].dtype),)

    def reference(
        self, attributes: GatherChannelsAttributes, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """Stacks the chosen channels."""
        return (np.stack([inputs[tensor][:, channel] for tensor, channel in attributes.sources], axis=1),)

    def compute(self, workload: Workload, inputs: Sequence[Any], weights: Mapping[str, Any]) -> Sequence[Any]:
        """The source of a channel as an expression of its number, which does not depend on the position in the map."""
        from tvm import te, tirx

        sources = workload.attributes.sources

        def lookup(table: Sequence[int], index: Any) -> Any:
            """An entry of a table: interleaved arithmetic progressions where it is made of them, else bisection."""
            for period in range(1, 5):
                rows = [table[row::period] for row in range(min(period, len(table)))]
                if all(len({b - a for a, b in pairwise(row)}) <= 1 for row in rows):
                    values = [row[0] + (row[1] - row[0] if len(row) > 1 else 0) * (index // period) for row in rows]
                    found = values[-1]
                    for number in reversed(range(len(values) - 1)):
                        found = tirx.Select(index % period == number, values[number], found)
                    return found
            half = len(table) // 2
            low, high = lookup(table[:half], index), lookup(table[half:], index - half)
            return tirx.Select(index < half, low, high)

        def element(n: Any, j: Any, y: Any, x: Any) -> Any:
            tensor = lookup([source for source, _ in sources], j)
            channel = lookup([channel for _, channel in sources], j)
            value = None
            for index, data in enumerate(inputs):
                item = data[n, tirx.min(channel, int(data.shape[1]) - 1), y, x]
                value = item if value is None else tirx.if_then_else(tensor == index, item, value)
            return value

        return [te.compute(workload.outputs[0].shape, element, "gather_channels")]

    def examples(self) -> Iterable[Workload]:
        """The shuffle of two groups, its halves, uneven channels, repeats, one input, batches."""
        shuffle = tuple((j % 2, j // 2) for j in range(48))
        cases: list[tuple[tuple[tuple[int, int, int, int], ...], tuple[tuple[int, int], ...]]] = [
            (((1, 24, 7, 7), (1, 24, 7, 7)), shuffle),
            (((1, 24, 6, 5), (1, 24, 6, 5)), shuffle[24:]),
            (((2, 10, 4, 4), (2, 7, 4, 4)), tuple((j % 2, j // 2 % 7) for j in range(13))),
            (((1, 20, 3, 3),), tuple((0, j * 7 % 20) for j in range(20))),
            (((1, 3, 8, 8),), ((0, 2), (0, 1), (0, 0))),
            (((1, 4, 2, 3), (1, 16, 2, 3), (1, 1, 2, 3)), ((2, 0), (1, 15), (1, 14), (0, 0), (0, 1), (0, 1))),
        ]
        for shapes, sources in cases:
            yield self.workload(GatherChannelsAttributes(sources), [TensorType(shape) for shape in shapes])
