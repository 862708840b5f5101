"""ShuffleNetV2: Ma et al., "ShuffleNet V2: practical guidelines for efficient CNN architecture design" (2018)."""

from __future__ import annotations

from softneuro_tvm.zoo.builder import Builder

# Channels and depth of stages 2, 3 and 4 at width 1.0.
_STAGES = ((116, 4), (232, 8), (464, 4))


def shufflenet_v2(net: Builder, x: str) -> str:
    """ShuffleNetV2, width 1.0: half of the channels pass each unit untouched, then both halves are interleaved."""
    x = net.relu(net.conv(x, "conv1.0", 24, 3, stride=2, padding=1), "conv1.2")
    x = net.max_pool(x, "maxpool", 3, stride=2, padding=1)
    for stage, (channels, depth) in enumerate(_STAGES, start=2):
        x = _down_unit(net, x, f"stage{stage}.0", channels // 2)
        for block in range(1, depth):
            x = _unit(net, x, f"stage{stage}.{block}")
    x = net.relu(net.conv(x, "conv5.0", 1024, 1), "conv5.2")
    n, c = net.shapes[x][:2]
    x = net.node("ReduceMean", [x], "mean", [(n, c)], axes=[2, 3], keepdims=0)[0]
    return net.linear(x, "fc", 1000, gain=8.0)


def _unit(net: Builder, x: str, name: str) -> str:
    half = net.shapes[x][1] // 2
    kept, y = net.split(x, f"{name}.split", (half, half))
    return _shuffle(net, net.concat((kept, _branch2(net, y, name, half, 1)), f"{name}.concat"), name)


def _down_unit(net: Builder, x: str, name: str, channels: int) -> str:
    c = net.shapes[x][1]
    left = net.conv(x, f"{name}.branch1.0", c, 3, stride=2, padding=1, groups=c)
    left = net.relu(net.conv(left, f"{name}.branch1.2", channels, 1), f"{name}.branch1.4")
    return _shuffle(net, net.concat((left, _branch2(net, x, name, channels, 2)), f"{name}.concat"), name)


def _branch2(net: Builder, x: str, name: str, channels: int, stride: int) -> str:
    y = net.relu(net.conv(x, f"{name}.branch2.0", channels, 1), f"{name}.branch2.2")
    y = net.conv(y, f"{name}.branch2.3", channels, 3, stride, padding=1, groups=channels)
    return net.relu(net.conv(y, f"{name}.branch2.5", channels, 1), f"{name}.branch2.7")


def _shuffle(net: Builder, x: str, name: str) -> str:
    """Interleaves the two halves of the channels: Reshape, Transpose, Reshape."""
    n, c, h, w = net.shapes[x]
    y = net.reshape(x, f"{name}.shuffle.split", (n, 2, c // 2, h, w))
    y = net.transpose(y, f"{name}.shuffle.swap", (0, 2, 1, 3, 4))
    return net.reshape(y, f"{name}.shuffle.join", (n, c, h, w))
