"""MobileNetV2 (Sandler et al., 2018) and MobileNetV3 (Howard et al., 2019), torchvision's variants."""

from __future__ import annotations

from softneuro_tvm.zoo.builder import Builder

# MobileNetV2: expansion, channels, depth, stride of the first block.
_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# MobileNetV3 large: kernel, expanded channels, channels, squeeze-and-excitation, HardSwish, stride.
_V3_LARGE_BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
_V3_EPS = 1e-3

# Standard deviation of a residual branch relative to its skip connection.
_BRANCH_GAIN = 0.5


def mobilenet_v2(net: Builder, x: str) -> str:
    """MobileNetV2, width 1.0: inverted residuals with ReLU6; batch normalisation folded."""
    x = net.relu6(net.conv(x, "features.0.0", 32, 3, stride=2, padding=1), "features.0.2")
    index = 1
    for expansion, channels, depth, first_stride in _V2_STAGES:
        for block in range(depth):
            stride = first_stride if block == 0 else 1
            x = _inverted_residual_v2(net, x, f"features.{index}", expansion, channels, stride)
            index += 1
    x = net.relu6(net.conv(x, "features.18.0", 1280, 1), "features.18.2")
    x = net.flatten(net.global_avg_pool(x, "avgpool"), "flatten")
    return net.linear(x, "classifier.1", 1000, gain=3.0)


def mobilenet_v3_large(net: Builder, x: str) -> str:
    """MobileNetV3 large, width 1.0; its BatchNormalization nodes are left unfolded."""
    x = _conv_bn(net, x, "features.0", 16, 3, stride=2, activation="HardSwish")
    for index, block in enumerate(_V3_LARGE_BLOCKS, start=1):
        x = _inverted_residual_v3(net, x, f"features.{index}", *block)
    x = _conv_bn(net, x, "features.16", 960, 1, activation="HardSwish")
    x = net.flatten(net.global_avg_pool(x, "avgpool"), "flatten")
    x = net.map("HardSwish", net.linear(x, "classifier.0", 1280), "classifier.1")
    return net.linear(x, "classifier.3", 1000, gain=2.0)


def _inverted_residual_v2(net: Builder, x: str, name: str, expansion: int, channels: int, stride: int) -> str:
    c = net.shapes[x][1]
    residual = stride == 1 and c == channels
    y, index = x, 0
    if expansion > 1:
        y = net.relu6(net.conv(y, f"{name}.conv.0.0", c * expansion, 1), f"{name}.conv.0.2")
        index = 1
    depthwise = net.conv(y, f"{name}.conv.{index}.0", c * expansion, 3, stride, padding=1, groups=c * expansion)
    y = net.relu6(depthwise, f"{name}.conv.{index}.2")
    y = net.conv(y, f"{name}.conv.{index + 1}", channels, 1, gain=_BRANCH_GAIN if residual else 1.0)
    return net.add(x, y, f"{name}.add") if residual else y


def _inverted_residual_v3(
    net: Builder, x: str, name: str, kernel: int, expanded: int, channels: int, se: bool, hs: bool, stride: int
) -> str:
    c = net.shapes[x][1]
    activation = "HardSwish" if hs else "Relu"
    residual = stride == 1 and c == channels
    y, index = x, 0
    if expanded != c:
        y = _conv_bn(net, y, f"{name}.block.0", expanded, 1, activation=activation)
        index = 1
    y = _conv_bn(net, y, f"{name}.block.{index}", expanded, kernel, stride, groups=expanded, activation=activation)
    if se:
        index += 1
        y = _squeeze_excitation(net, y, f"{name}.block.{index}", _divisible_by_8(expanded / 4))
    y = _conv_bn(net, y, f"{name}.block.{index + 1}", channels, 1, gain=_BRANCH_GAIN if residual else 1.0)
    return net.add(y, x, f"{name}.add") if residual else y


def _conv_bn(
    net: Builder,
    x: str,
    name: str,
    channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: str = "",
    gain: float = 1.0,
) -> str:
    y = net.conv(x, f"{name}.0", channels, kernel, stride, kernel // 2, groups, bias=False, gain=gain)
    y = net.bn(y, f"{name}.1", _V3_EPS)
    return net.map(activation, y, f"{name}.2") if activation else y


def _squeeze_excitation(net: Builder, x: str, name: str, squeezed: int) -> str:
    y = net.global_avg_pool(x, f"{name}.avgpool")
    y = net.relu(net.conv(y, f"{name}.fc1", squeezed, 1), f"{name}.activation")
    y = net.hard_sigmoid(net.conv(y, f"{name}.fc2", net.shapes[x][1], 1), f"{name}.scale_activation")
    return net.mul(y, x, f"{name}.mul")


def _divisible_by_8(channels: float) -> int:
    """Rounds to the nearest multiple of 8, up where that would lose more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
