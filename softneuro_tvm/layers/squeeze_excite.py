"""Squeeze and excitation: channels scaled by gates that two small layers compute from the channels' averages.

Source: Hu, Shen and Sun, "Squeeze-and-Excitation Networks", CVPR 2018.
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
from softneuro_tvm.layers.elementwise import Elementwise, ElementwiseAttributes
from softneuro_tvm.layers.pool2d import Pool2d, Pool2dAttributes

_PRODUCTS = ((("mul", ("x0", "x1")),), (("mul", ("x1", "x0")),))


@dataclass(frozen=True)
class SqueezeExciteAttributes:
    """Attributes of the parts.

    Args:
        pool: Average over the whole map.
        squeeze: 1x1 convolution of the averages.
        excite: 1x1 convolution that gives the gates.
        scale: Product of the two inputs.
        gate: Which of the inputs of `scale` are the gates.
    """

    pool: Pool2dAttributes
    squeeze: Conv2dAttributes
    excite: Conv2dAttributes
    scale: ElementwiseAttributes
    gate: int = 0


class SqueezeExcite(Chain):
    """``y = excite(squeeze(pool(x))) * x``; the two x are inputs of their own, and the same tensor in most networks.

    Shapes: x [N, C, H, W], twice; squeeze.weight [S, C, 1, 1]; excite.weight [C, S, 1, 1]; y [N, C, H, W].
    """

    name = "squeeze_excite"
    Attributes = SqueezeExciteAttributes

    def parts(self, attributes: SqueezeExciteAttributes) -> tuple[Part, ...]:
        """Pool, two convolutions, product."""
        return (
            Part("pool", Pool2d(), attributes.pool),
            Part("squeeze", Conv2d(), attributes.squeeze),
            Part("excite", Conv2d(), attributes.excite),
            Part("scale", Elementwise(), attributes.scale, attributes.gate),
        )

    def arity(self, part: Part) -> int:
        """The product has two inputs."""
        return 2 if part.name == "scale" else 1

    def covers(self, graph: Graph) -> Iterable[Cover]:
        """From each global average pooling onwards."""
        for pool in graph.layers:
            found = _chain(graph, pool)
            if found is None:
                continue
            (squeeze, excite, scale), gate = found
            attributes = SqueezeExciteAttributes(
                pool.attributes, squeeze.attributes, excite.attributes, scale.attributes, gate
            )
            parts = {"pool": pool, "squeeze": squeeze, "excite": excite, "scale": scale}
            cover = Cover.of(graph, self.name, attributes, parts)
            if cover and graph.tensors[cover.layer.inputs[-1]] == graph.tensors[pool.inputs[0]]:
                yield cover

    def examples(self) -> Iterable[Workload]:
        """Uneven channels and maps, batches, several activations, gates on either side of the product."""
        relu, silu, prelu = Activation("relu"), Activation("silu"), Activation("prelu")
        hard, sigmoid = Activation("hard_sigmoid", 1 / 6, 0.5), Activation("sigmoid")
        for shape, squeezed, first, second, gate in (
            ((1, 72, 28, 28), 24, relu, hard, 0),
            ((1, 32, 9, 7), 8, silu, sigmoid, 0),
            ((2, 20, 5, 6), 5, relu, sigmoid, 1),
            ((3, 150, 3, 3), 37, silu, hard, 0),
            ((1, 6, 4, 4), 40, prelu, sigmoid, 1),
        ):
            channels = shape[1]
            weights = {
                "squeeze.weight": TensorType((squeezed, channels, 1, 1)),
                "squeeze.bias": TensorType((squeezed,)),
                "excite.weight": TensorType((channels, squeezed, 1, 1)),
                "excite.bias": TensorType((channels,)),
            }
            if first.name == "prelu":
                weights["squeeze.slope"] = TensorType((squeezed,))
            attributes = SqueezeExciteAttributes(
                Pool2dAttributes("average", (shape[2], shape[3]), (1, 1), (0, 0, 0, 0)),
                Conv2dAttributes(activation=first),
                Conv2dAttributes(activation=second),
                ElementwiseAttributes(_PRODUCTS[gate]),
                gate,
            )
            yield self.workload(attributes, [TensorType(shape)] * 2, weights)


def _chain(graph: Graph, pool: Layer) -> tuple[list[Layer], int] | None:
    """The three layers after a global average pooling, and at which input the gates reach the last one."""
    if pool.kind != "pool2d" or pool.attributes.mode != "average":
        return None
    source = graph.tensors[pool.inputs[0]].shape
    if pool.attributes.kernel != source[2:] or any(pool.attributes.padding):
        return None
    found, layer, port = list[Layer](), pool, 0
    for kind in ("conv2d", "conv2d", "elementwise"):
        reader = only_reader(graph, layer)
        if reader is None or reader[0].kind != kind:
            return None
        layer, port = reader
        if kind == "conv2d" and not _is_plain(layer):
            return None
        found.append(layer)
    return (found, port) if layer.attributes.expression in _PRODUCTS and len(layer.inputs) == 2 else None


def _is_plain(layer: Layer) -> bool:
    attributes = layer.attributes
    is_pointwise = layer.weights["weight"].shape[2:] == (1, 1) and not any(attributes.padding)
    return is_pointwise and attributes.groups == 1 and attributes.strides == (1, 1) and not attributes.residual
