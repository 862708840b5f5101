"""Pointwise, depthwise and pointwise convolution in a row, or two of them: the unit of networks for mobile devices.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
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


@dataclass(frozen=True)
class InvertedResidualAttributes:
    """Attributes of the convolutions; one of the pointwise ones may be absent.

    Args:
        expand: 1x1, stride 1, no residual.
        depthwise: One filter for each channel, no residual.
        project: 1x1, stride 1; its residual is the composite's last input.
    """

    expand: Conv2dAttributes | None
    depthwise: Conv2dAttributes
    project: Conv2dAttributes | None


class InvertedResidual(Chain):
    """``y = project(depthwise(expand(x))) [+ residual]``, each with bias and activation.

    Shapes: x [N, C, H, W]; expand.weight [E, C, 1, 1]; depthwise.weight [E, 1, R, S]; project.weight [K, E, 1, 1];
    y and residual [N, K, OH, OW].
    """

    name = "inverted_residual"
    Attributes = InvertedResidualAttributes

    def parts(self, attributes: InvertedResidualAttributes) -> tuple[Part, ...]:
        """Those that are present."""
        found = [("expand", attributes.expand), ("depthwise", attributes.depthwise), ("project", attributes.project)]
        return tuple(Part(name, Conv2d(), part) for name, part in found if part is not None)

    def arity(self, part: Part) -> int:
        """Two with a residual."""
        return 2 if part.attributes.residual else 1

    def covers(self, graph: Graph) -> Iterable[Cover]:
        """Around each depthwise convolution: all three, the first two, the last two."""
        for layer in graph.layers:
            if not _is_depthwise(graph, layer):
                continue
            before, after = graph.producer.get(layer.inputs[0]), only_reader(graph, layer)
            expand = before if before and _is_pointwise(before) and not before.attributes.residual else None
            project = after[0] if after and after[1] == 0 and _is_pointwise(after[0]) else None
            both = [(expand, project)] if expand and project else []
            pairs = [*both, *([(expand, None)] if expand else []), *([(None, project)] if project else [])]
            for first, last in pairs:
                attributes = InvertedResidualAttributes(
                    first.attributes if first else None, layer.attributes, last.attributes if last else None
                )
                parts = {"expand": first, "depthwise": layer, "project": last}
                cover = Cover.of(graph, self.name, attributes, {name: part for name, part in parts.items() if part})
                if cover:
                    yield cover

    def examples(self) -> Iterable[Workload]:
        """Both strides, 3x3 and 5x5, uneven channels, asymmetric padding, dilation, batches, every epilogue."""
        clip, silu, prelu = Activation("clip", 0.0, 6.0), Activation("silu"), Activation("prelu")
        relu, plain, same, wide = Activation("relu"), Conv2dAttributes(), (1, 1, 1, 1), (2, 2, 2, 2)
        act, res = Conv2dAttributes(activation=clip), Conv2dAttributes(residual=True)
        cases: list[tuple[tuple[int, ...], int, int, int, tuple[Conv2dAttributes | None, ...]]] = [
            ((1, 16, 14, 14), 48, 24, 3, (act, Conv2dAttributes((2, 2), same, activation=clip), plain)),
            ((1, 24, 9, 9), 72, 24, 3, (act, Conv2dAttributes(padding=same, activation=clip), res)),
            ((2, 20, 8, 11), 50, 20, 5, (act, Conv2dAttributes(padding=wide, activation=relu), res)),
            ((1, 10, 12, 13), 33, 17, 5, (plain, Conv2dAttributes((2, 2), (1, 2, 2, 1)), act)),
            ((1, 32, 28, 28), 96, 32, 3, (act, Conv2dAttributes(padding=same, activation=clip), res)),
            ((1, 40, 7, 7), 240, 80, 3, (act, Conv2dAttributes(padding=same, activation=clip), plain)),
            (
                (1, 16, 7, 9),
                20,
                16,
                3,
                (
                    Conv2dAttributes(activation=silu),
                    Conv2dAttributes(padding=same, activation=silu),
                    Conv2dAttributes(residual=True, activation=silu),
                ),
            ),
            (
                (1, 8, 6, 6),
                24,
                12,
                3,
                (
                    Conv2dAttributes(activation=prelu),
                    Conv2dAttributes(padding=same, activation=prelu),
                    Conv2dAttributes(activation=prelu),
                ),
            ),
            ((2, 16, 13, 13), 40, 0, 3, (act, Conv2dAttributes((2, 2), (0, 0, 1, 1), activation=relu), None)),
            ((1, 24, 10, 8), 56, 0, 5, (act, Conv2dAttributes(padding=wide, activation=silu), None)),
            ((1, 32, 16, 16), 32, 16, 3, (None, Conv2dAttributes(padding=same, activation=clip), plain)),
            ((2, 20, 9, 12), 20, 28, 3, (None, Conv2dAttributes((2, 2), same, activation=relu), res)),
            ((1, 16, 9, 9), 16, 24, 3, (None, Conv2dAttributes(padding=wide, dilation=(2, 2)), act)),
            ((1, 12, 5, 5), 30, 10, 3, (act, Conv2dAttributes(), plain)),
        ]
        for shape, expanded, projected, kernel, (expand, depthwise, project) in cases:
            assert depthwise is not None
            grouped = Conv2dAttributes(
                depthwise.strides, depthwise.padding, depthwise.dilation, expanded, depthwise.activation
            )
            weights = {"depthwise.weight": (expanded, 1, kernel, kernel), "depthwise.bias": (expanded,)}
            if expand:
                weights |= {"expand.weight": (expanded, shape[1], 1, 1), "expand.bias": (expanded,)}
            if project:
                weights |= {"project.weight": (projected, expanded, 1, 1), "project.bias": (projected,)}
            slopes = [("expand", expand, expanded), ("depthwise", grouped, expanded), ("project", project, projected)]
            for name, part, channels in slopes:
                if part and part.activation.name == "prelu":
                    weights[f"{name}.slope"] = (channels,)
            types, inputs = {key: TensorType(extents) for key, extents in weights.items()}, [TensorType(shape)]
            attributes = InvertedResidualAttributes(expand, grouped, project)
            if project and project.residual:
                bare = Conv2dAttributes(activation=project.activation)
                inputs += self.output_types(InvertedResidualAttributes(expand, grouped, bare), inputs, types)
            yield self.workload(attributes, inputs, types)


def _is_pointwise(layer: Layer) -> bool:
    if layer.kind != "conv2d" or layer.weights["weight"].shape[2:] != (1, 1):
        return False
    attributes = layer.attributes
    return attributes.groups == 1 and attributes.strides == (1, 1) and not any(attributes.padding)


def _is_depthwise(graph: Graph, layer: Layer) -> bool:
    if layer.kind != "conv2d" or layer.attributes.residual:
        return False
    channels = graph.tensors[layer.inputs[0]].shape[1]
    return bool(layer.attributes.groups == channels == layer.weights["weight"].shape[0] > 1)
