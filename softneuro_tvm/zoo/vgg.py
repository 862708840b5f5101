"""VGG: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (2014)."""

from __future__ import annotations

from softneuro_tvm.zoo.builder import Builder

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg16(net: Builder, x: str) -> str:
    """VGG-16 without batch normalisation: thirteen 3x3 convolutions and three dense layers."""
    index = 0
    for channels, depth in _STAGES:
        for _ in range(depth):
            x = net.relu(net.conv(x, f"features.{index}", channels, 3, padding=1), f"features.{index + 1}")
            index += 2
        x = net.max_pool(x, f"features.{index}", 2, stride=2)
        index += 1
    # An adaptive 7x7 pooling of a 7x7 image is exported as a 1x1 average pooling.
    x = net.flatten(net.avg_pool(x, "avgpool", 1, stride=1), "flatten")
    x = net.relu(net.linear(x, "classifier.0", 4096), "classifier.1")
    x = net.relu(net.linear(x, "classifier.3", 4096), "classifier.4")
    return net.linear(x, "classifier.6", 1000)
