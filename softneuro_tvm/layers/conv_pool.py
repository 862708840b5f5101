"""A convolution and the pooling that alone reads it: the map between them need not exist.

Source: Alwani et al., "Fused-layer CNN Accelerators", MICRO 2016.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from softneuro_tvm.activations import Activation
from softneuro_tvm.formats import TensorType
from softneuro_tvm.graph import Graph, Layer, Workload
from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.layers._composite import Chain, Part, only_reader
from softneuro_tvm.layers.conv2d import Conv2d, Conv2dAttributes
from softneuro_tvm.layers.pool2d import Pool2d, Pool2dAttributes


@dataclass(frozen=True)
class ConvPoolAttributes:
    """Attributes of the parts.

    Args:
        conv: One group, no residual.
        pool: Gives fewer positions than it reads, and more than one.
    """

    conv: Conv2dAttributes
    pool: Pool2dAttributes


class ConvPool(Chain):
    """``y = pool(conv(x))``, the convolution with bias and activation.

    Shapes: x [N, C, H, W]; conv.weight [K, C, R, S]; conv.bias [K]; conv.slope [K] (PReLU only); y [N, K, OH, OW].
    """

    name = "conv_pool"
    Attributes = ConvPoolAttributes

    def parts(self, attributes: ConvPoolAttributes) -> tuple[Part, ...]:
        """Convolution, pooling."""
        return Part("conv", Conv2d(), attributes.conv), Part("pool", Pool2d(), attributes.pool)

    def arity(self, part: Part) -> int:
        """Each reads one map."""
        return 1

    def covers(self, graph: Graph) -> Iterable[Cover]:
        """Each convolution whose only reader is a pooling that makes the map smaller."""
        for conv in graph.layers:
            if conv.kind != "conv2d" or conv.attributes.groups != 1 or conv.attributes.residual:
                continue
            reader = only_reader(graph, conv)
            if reader is None or not _shrinks(graph, reader[0]):
                continue
            attributes = ConvPoolAttributes(conv.attributes, reader[0].attributes)
            cover = Cover.of(graph, self.name, attributes, {"conv": conv, "pool": reader[0]})
            if cover:
                yield cover

    def examples(self) -> Iterable[Workload]:
        """Stems, pairs as in VGG, transitions as in DenseNet; windows that overlap, touch, leave gaps, are cut off."""
        relu, silu, prelu = Activation("relu"), Activation("silu"), Activation("prelu")
        same, wide = (1, 1, 1, 1), (2, 2, 2, 2)
        halves, thirds = Pool2dAttributes("max", (2, 2), (2, 2)), Pool2dAttributes("max", (3, 3), (2, 2))
        mean = Pool2dAttributes("average", (2, 2), (2, 2))
        cases: list[tuple[tuple[int, ...], int, tuple[int, int], Conv2dAttributes, Pool2dAttributes]] = [
            (
                (1, 3, 45, 43),
                32,
                (7, 7),
                Conv2dAttributes((2, 2), (3, 3, 3, 3), activation=relu),
                Pool2dAttributes("max", (3, 3), (2, 2), same),
            ),
            ((2, 3, 21, 24), 24, (3, 3), Conv2dAttributes((2, 2), activation=relu), thirds),
            (
                (1, 3, 16, 13),
                20,
                (3, 3),
                Conv2dAttributes(padding=same, activation=silu),
                Pool2dAttributes("max", (3, 3), (2, 2), ceil_mode=True),
            ),
            ((3, 1, 16, 16), 40, (3, 3), Conv2dAttributes(padding=same, activation=prelu), halves),
            ((1, 6, 9, 12), 36, (1, 1), Conv2dAttributes(), mean),
            (
                (2, 4, 13, 12),
                24,
                (5, 5),
                Conv2dAttributes(padding=wide, activation=Activation("clip", 0.0, 6.0)),
                Pool2dAttributes("average", (3, 3), (2, 2), same, count_include_pad=True),
            ),
            (
                (1, 8, 15, 10),
                16,
                (3, 3),
                Conv2dAttributes(padding=(0, 1, 2, 1), activation=Activation("leaky_relu", 0.1)),
                Pool2dAttributes("max", (3, 2), (2, 1), (1, 0, 0, 1)),
            ),
            (
                (2, 5, 17, 20),
                20,
                (3, 3),
                Conv2dAttributes(dilation=(2, 2)),
                Pool2dAttributes("average", (2, 2), (3, 3)),
            ),
            ((1, 7, 14, 23), 16, (3, 3), Conv2dAttributes((1, 2), same), Pool2dAttributes("max", (5, 4), (2, 3))),
            ((1, 16, 12, 14), 32, (3, 3), Conv2dAttributes(padding=same, activation=relu), halves),
            ((1, 32, 30, 28), 48, (3, 3), Conv2dAttributes(padding=same, activation=silu), halves),
            ((2, 20, 11, 13), 36, (3, 3), Conv2dAttributes(padding=same, activation=prelu), halves),
            ((1, 16, 13, 9), 24, (5, 5), Conv2dAttributes(padding=wide, activation=Activation("tanh")), halves),
            ((2, 20, 15, 7), 20, (3, 3), Conv2dAttributes(padding=(0, 1, 1, 0), activation=relu), mean),
        ]
        for shape, k, (r, s), conv, pool in cases:
            weights = {"conv.weight": TensorType((k, shape[1], r, s)), "conv.bias": TensorType((k,))}
            if conv.activation.name == "prelu":
                weights["conv.slope"] = TensorType((k,))
            yield self.workload(ConvPoolAttributes(conv, pool), [TensorType(shape)], weights)


def _shrinks(graph: Graph, layer: Layer) -> bool:
    """True for a pooling with a stride that leaves more than one position."""
    positions = graph.tensors[layer.outputs[0]].shape[2:]
    return layer.kind == "pool2d" and layer.attributes.strides != (1, 1) and positions != (1, 1)
