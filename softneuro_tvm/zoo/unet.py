"""U-Net: Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation" (2015), made small."""

from __future__ import annotations

from softneuro_tvm.zoo.builder import Builder

_WIDTHS = (16, 32, 64)
_BOTTOM_WIDTH = 128
_CLASSES = 2


def unet(net: Builder, x: str) -> str:
    """Three levels down and, with transposed convolutions and skip connections, three up: N,C,H,W to N,2,H,W."""
    skips = []
    for level, width in enumerate(_WIDTHS, start=1):
        x = _double_conv(net, x, f"down{level}", width)
        skips.append(x)
        x = net.max_pool(x, f"down{level}.pool", 2, stride=2)
    x = _double_conv(net, x, "bottom", _BOTTOM_WIDTH)
    for level, width in reversed(list(enumerate(_WIDTHS, start=1))):
        x = _up(net, x, f"up{level}.up", width)
        x = net.concat((skips[level - 1], x), f"up{level}.concat")
        x = _double_conv(net, x, f"up{level}", width)
    return net.conv(x, "head", _CLASSES, 1)


def _double_conv(net: Builder, x: str, name: str, width: int) -> str:
    x = net.relu(net.conv(x, f"{name}.conv1", width, 3, padding=1), f"{name}.relu1")
    return net.relu(net.conv(x, f"{name}.conv2", width, 3, padding=1), f"{name}.relu2")


def _up(net: Builder, x: str, name: str, width: int) -> str:
    """Doubles height and width with a 2x2 transposed convolution of stride 2; the weight is C,K,2,2."""
    n, c, h, w = net.shapes[x]
    weight = net.random(f"{name}.weight", (c, width, 2, 2), (2 / c) ** 0.5)
    return net.node(
        "ConvTranspose",
        [x, weight, net.random(f"{name}.bias", (width,), 0.05)],
        name,
        [(n, width, 2 * h, 2 * w)],
        dilations=[1, 1],
        group=1,
        kernel_shape=[2, 2],
        pads=[0, 0, 0, 0],
        strides=[2, 2],
    )[0]
