"""DenseNet: Huang et al., "Densely connected convolutional networks" (2016)."""

from __future__ import annotations

from softneuro_tvm.zoo.builder import Builder

_DEPTHS = (6, 12, 24, 16)
_GROWTH = 32


def densenet121(net: Builder, x: str) -> str:
    """DenseNet-121: each layer reads the concatenation of all before it in its block.

    The normalisations that precede an activation cannot be folded into a convolution; the others are folded.
    """
    x = net.relu(net.conv(x, "features.conv0", 64, 7, stride=2, padding=3), "features.relu0")
    x = net.max_pool(x, "features.pool0", 3, stride=2, padding=1)
    for index, depth in enumerate(_DEPTHS, start=1):
        if index > 1:
            x = _transition(net, x, f"features.transition{index - 1}")
        features = [x]
        for layer in range(1, depth + 1):
            features.append(_dense_layer(net, features, f"features.denseblock{index}.denselayer{layer}"))
        x = net.concat(features, f"features.denseblock{index}.concat")
    x = net.relu(net.bn(x, "features.norm5"), "relu")
    x = net.flatten(net.global_avg_pool(x, "avgpool"), "flatten")
    return net.linear(x, "classifier", 1000, gain=4.0)


def _dense_layer(net: Builder, features: list[str], name: str) -> str:
    x = net.concat(features, f"{name}.concat")
    x = net.relu(net.bn(x, f"{name}.norm1"), f"{name}.relu1")
    x = net.relu(net.conv(x, f"{name}.conv1", 4 * _GROWTH, 1), f"{name}.relu2")
    return net.conv(x, f"{name}.conv2", _GROWTH, 3, padding=1, bias=False)


def _transition(net: Builder, x: str, name: str) -> str:
    y = net.relu(net.bn(x, f"{name}.norm"), f"{name}.relu")
    y = net.conv(y, f"{name}.conv", net.shapes[x][1] // 2, 1, bias=False)
    return net.avg_pool(y, f"{name}.pool", 2, stride=2)
