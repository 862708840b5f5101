"""SqueezeNet: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters" (2016)."""

from __future__ import annotations

from softneuro_tvm.zoo.builder import Builder

# Squeeze and expand channels of the fire modules, by index in `features`; a pooling stands before those marked.
_FIRES = (
    (3, 16, 64, True),
    (4, 16, 64, False),
    (6, 32, 128, True),
    (7, 32, 128, False),
    (9, 48, 192, True),
    (10, 48, 192, False),
    (11, 64, 256, False),
    (12, 64, 256, False),
)


def squeezenet1_1(net: Builder, x: str) -> str:
    """SqueezeNet 1.1: fire modules, poolings that round up, a convolution as classifier."""
    x = net.relu(net.conv(x, "features.0", 64, 3, stride=2), "features.1")
    for index, squeeze, expand, pooled in _FIRES:
        if pooled:
            x = net.max_pool(x, f"features.{index - 1}", 3, stride=2, ceil=True)
        x = _fire(net, x, f"features.{index}", squeeze, expand)
    x = net.relu(net.conv(x, "classifier.1", 1000, 1, gain=5.0), "classifier.2")
    return net.flatten(net.global_avg_pool(x, "classifier.3"), "flatten")


def _fire(net: Builder, x: str, name: str, squeeze: int, expand: int) -> str:
    x = net.relu(net.conv(x, f"{name}.squeeze", squeeze, 1), f"{name}.squeeze_activation")
    left = net.relu(net.conv(x, f"{name}.expand1x1", expand, 1), f"{name}.expand1x1_activation")
    right = net.relu(net.conv(x, f"{name}.expand3x3", expand, 3, padding=1), f"{name}.expand3x3_activation")
    return net.concat((left, right), f"{name}.concat")
