"""EfficientNet: Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks" (2019)."""

from __future__ import annotations

from softneuro_tvm.zoo.builder import Builder

# Expansion, kernel, stride of the first block, channels, depth.
_B0_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
# Standard deviation of a residual branch relative to its skip connection.
_BRANCH_GAIN = 0.5


def efficientnet_b0(net: Builder, x: str) -> str:
    """EfficientNet-B0: inverted residuals with squeeze and excitation and SiLU, written as Sigmoid and Mul."""
    x = _silu(net, net.conv(x, "features.0.0", 32, 3, stride=2, padding=1), "features.0.2")
    for stage, (expansion, kernel, first_stride, channels, depth) in enumerate(_B0_STAGES, start=1):
        for block in range(depth):
            stride = first_stride if block == 0 else 1
            x = _mbconv(net, x, f"features.{stage}.{block}", expansion, kernel, stride, channels)
    x = _silu(net, net.conv(x, "features.8.0", 1280, 1), "features.8.2")
    x = net.flatten(net.global_avg_pool(x, "avgpool"), "flatten")
    return net.linear(x, "classifier.1", 1000, gain=4.0)


def _mbconv(net: Builder, x: str, name: str, expansion: int, kernel: int, stride: int, channels: int) -> str:
    c = net.shapes[x][1]
    expanded = c * expansion
    residual = stride == 1 and c == channels
    y, index = x, 0
    if expansion > 1:
        y = _silu(net, net.conv(y, f"{name}.block.0.0", expanded, 1), f"{name}.block.0.2")
        index = 1
    y = net.conv(y, f"{name}.block.{index}.0", expanded, kernel, stride, kernel // 2, groups=expanded)
    y = _silu(net, y, f"{name}.block.{index}.2")
    y = _squeeze_excitation(net, y, f"{name}.block.{index + 1}", max(1, c // 4))
    y = net.conv(y, f"{name}.block.{index + 2}.0", channels, 1, gain=_BRANCH_GAIN if residual else 1.0)
    return net.add(y, x, f"{name}.add") if residual else y


def _squeeze_excitation(net: Builder, x: str, name: str, squeezed: int) -> str:
    y = net.global_avg_pool(x, f"{name}.avgpool")
    y = _silu(net, net.conv(y, f"{name}.fc1", squeezed, 1), f"{name}.activation")
    y = net.map("Sigmoid", net.conv(y, f"{name}.fc2", net.shapes[x][1], 1), f"{name}.scale_activation")
    return net.mul(y, x, f"{name}.mul")


def _silu(net: Builder, x: str, name: str) -> str:
    return net.mul(x, net.map("Sigmoid", x, f"{name}.sigmoid"), name)
