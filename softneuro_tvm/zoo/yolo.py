"""A one-stage detector: Jocher et al., "Ultralytics YOLOv5" (2020), nano size, as far as the scores of its boxes."""

from __future__ import annotations

from softneuro_tvm.zoo.builder import Builder

_WIDTHS = (16, 32, 64, 128, 256)
_BOXES = 3
_VALUES = 85  # of each box: four coordinates, its score, those of 80 classes


def yolov5n(net: Builder, x: str) -> str:
    """Backbone, pyramid up, pyramid down, three heads: N,3,H,W to N,boxes,85 (sigmoids, boxes not yet decoded)."""
    stem, small, middle, large, top = _WIDTHS
    x = _conv(net, x, "backbone.0", stem, 6, 2, padding=2)
    x = _c3(net, _conv(net, x, "backbone.1", small, 3, 2), "backbone.2", small, 1)
    p3 = x = _c3(net, _conv(net, x, "backbone.3", middle, 3, 2), "backbone.4", middle, 2)
    p4 = x = _c3(net, _conv(net, x, "backbone.5", large, 3, 2), "backbone.6", large, 3)
    x = _c3(net, _conv(net, x, "backbone.7", top, 3, 2), "backbone.8", top, 1)
    x = _sppf(net, x, "backbone.9", top)
    n5 = x = _conv(net, x, "neck.10", large, 1)
    x = net.concat([_upsampled(net, x, "neck.11"), p4], "neck.12")
    n4 = x = _conv(net, _c3(net, x, "neck.13", large, 1, shortcut=False), "neck.14", middle, 1)
    x = net.concat([_upsampled(net, x, "neck.15"), p3], "neck.16")
    p3 = x = _c3(net, x, "neck.17", middle, 1, shortcut=False)
    x = net.concat([_conv(net, x, "neck.18", middle, 3, 2), n4], "neck.19")
    p4 = x = _c3(net, x, "neck.20", large, 1, shortcut=False)
    x = net.concat([_conv(net, x, "neck.21", large, 3, 2), n5], "neck.22")
    p5 = _c3(net, x, "neck.23", top, 1, shortcut=False)
    heads = [_head(net, level, f"head.{i}") for i, level in enumerate((p3, p4, p5))]
    return net.concat(heads, "head")


def _conv(net: Builder, x: str, name: str, width: int, kernel: int, stride: int = 1, padding: int | None = None) -> str:
    """Convolution and SiLU (x sigmoid(x))."""
    x = net.conv(x, name, width, kernel, stride, kernel // 2 if padding is None else padding)
    return net.mul(x, net.map("Sigmoid", x, f"{name}.sigmoid"), f"{name}.silu")


def _c3(net: Builder, x: str, name: str, width: int, depth: int, shortcut: bool = True) -> str:
    """Half of the channels through bottlenecks, half past them, joined."""
    past = _conv(net, x, f"{name}.cv2", width // 2, 1)
    x = _conv(net, x, f"{name}.cv1", width // 2, 1)
    for i in range(depth):
        inner = _conv(net, x, f"{name}.m{i}.cv1", width // 2, 1)
        inner = _conv(net, inner, f"{name}.m{i}.cv2", width // 2, 3)
        x = net.add(x, inner, f"{name}.m{i}.add") if shortcut else inner
    return _conv(net, net.concat([x, past], f"{name}.concat"), f"{name}.cv3", width, 1)


def _sppf(net: Builder, x: str, name: str, width: int) -> str:
    """Max pooling over growing windows, joined."""
    levels = [_conv(net, x, f"{name}.cv1", width // 2, 1)]
    for i in range(3):
        levels.append(net.max_pool(levels[-1], f"{name}.pool{i}", 5, stride=1, padding=2))
    return _conv(net, net.concat(levels, f"{name}.concat"), f"{name}.cv2", width, 1)


def _upsampled(net: Builder, x: str, name: str) -> str:
    """Doubles height and width; each value is repeated."""
    n, c, h, w = net.shapes[x]
    scales = net.constant("upsample.scales", [1.0, 1.0, 2.0, 2.0])
    modes = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    return net.node("Resize", [x, "", scales], name, [(n, c, 2 * h, 2 * w)], **modes)[0]


def _head(net: Builder, x: str, name: str) -> str:
    """N,C,H,W to N,3HW,85."""
    n, _, h, w = net.shapes[x]
    x = net.conv(x, name, _BOXES * _VALUES, 1, gain=0.5)
    x = net.reshape(x, f"{name}.boxes", (n, _BOXES, _VALUES, h, w))
    x = net.map("Sigmoid", net.transpose(x, f"{name}.last", (0, 1, 3, 4, 2)), f"{name}.sigmoid")
    return net.reshape(x, f"{name}.list", (n, _BOXES * h * w, _VALUES))
