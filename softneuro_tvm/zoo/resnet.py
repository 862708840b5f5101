"""ResNet: He et al., "Deep residual learning for image recognition" (2015); torchvision's v1.5 variant."""

from __future__ import annotations

from softneuro_tvm.zoo.builder import Builder

# Standard deviation of a residual branch relative to its skip connection.
_BRANCH_GAIN = 0.4


def resnet18(net: Builder, x: str) -> str:
    """ResNet-18: two basic blocks in each of four stages."""
    return _resnet(net, x, (2, 2, 2, 2), bottleneck=False)


def resnet50(net: Builder, x: str) -> str:
    """ResNet-50: 3, 4, 6 and 3 bottleneck blocks."""
    return _resnet(net, x, (3, 4, 6, 3), bottleneck=True)


def resnext50_32x4d(net: Builder, x: str) -> str:
    """ResNeXt-50 32x4d (Xie et al., 2016): ResNet-50 with 32 groups of 4 channels in its 3x3 convolutions."""
    return _resnet(net, x, (3, 4, 6, 3), bottleneck=True, groups=32, group_width=4)


def _resnet(
    net: Builder, x: str, depths: tuple[int, ...], bottleneck: bool, groups: int = 1, group_width: int = 64
) -> str:
    x = net.relu(net.conv(x, "conv1", 64, 7, stride=2, padding=3), "relu")
    x = net.max_pool(x, "maxpool", 3, stride=2, padding=1)
    for stage, depth in enumerate(depths):
        planes = 64 << stage
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            stride = 2 if stage > 0 and block == 0 else 1
            if bottleneck:
                x = _bottleneck(net, x, name, planes, stride, groups, group_width)
            else:
                x = _basic_block(net, x, name, planes, stride)
    x = net.flatten(net.global_avg_pool(x, "avgpool"), "flatten")
    return net.linear(x, "fc", 1000, gain=4.5)


def _basic_block(net: Builder, x: str, name: str, planes: int, stride: int) -> str:
    y = net.relu(net.conv(x, f"{name}.conv1", planes, 3, stride, padding=1), f"{name}.relu1")
    y = net.conv(y, f"{name}.conv2", planes, 3, padding=1, gain=_BRANCH_GAIN)
    return _join(net, x, y, name, stride)


def _bottleneck(net: Builder, x: str, name: str, planes: int, stride: int, groups: int, group_width: int) -> str:
    width = planes * group_width // 64 * groups
    y = net.relu(net.conv(x, f"{name}.conv1", width, 1), f"{name}.relu1")
    y = net.relu(net.conv(y, f"{name}.conv2", width, 3, stride, padding=1, groups=groups), f"{name}.relu2")
    y = net.conv(y, f"{name}.conv3", 4 * planes, 1, gain=_BRANCH_GAIN)
    return _join(net, x, y, name, stride)


def _join(net: Builder, x: str, y: str, name: str, stride: int) -> str:
    if net.shapes[x] != net.shapes[y]:
        x = net.conv(x, f"{name}.downsample", net.shapes[y][1], 1, stride)
    return net.relu(net.add(y, x, f"{name}.add"), f"{name}.relu")
