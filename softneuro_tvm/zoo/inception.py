"""Inception v3: Szegedy et al., "Rethinking the inception architecture for computer vision" (2015)."""

from __future__ import annotations

from softneuro_tvm.zoo.builder import Builder

# One convolution of a branch: suffix of its name, channels, kernel, stride, padding.
_Conv = tuple[str, int, int | tuple[int, int], int, int | tuple[int, int]]


def inception_v3(net: Builder, x: str) -> str:
    """Inception v3 for 299x299 images, without the auxiliary classifier."""
    x = _conv(net, x, ("Conv2d_1a_3x3", 32, 3, 2, 0))
    x = _conv(net, x, ("Conv2d_2a_3x3", 32, 3, 1, 0))
    x = _conv(net, x, ("Conv2d_2b_3x3", 64, 3, 1, 1))
    x = net.max_pool(x, "maxpool1", 3, stride=2)
    x = _conv(net, x, ("Conv2d_3b_1x1", 80, 1, 1, 0))
    x = _conv(net, x, ("Conv2d_4a_3x3", 192, 3, 1, 0))
    x = net.max_pool(x, "maxpool2", 3, stride=2)
    for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _mixed_35x35(net, x, name, pooled)
    x = _reduce_to_17x17(net, x, "Mixed_6a")
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = _mixed_17x17(net, x, name, width)
    x = _reduce_to_8x8(net, x, "Mixed_7a")
    for name in ("Mixed_7b", "Mixed_7c"):
        x = _mixed_8x8(net, x, name)
    x = net.flatten(net.global_avg_pool(x, "avgpool"), "flatten")
    return net.linear(x, "fc", 1000, gain=3.0)


def _mixed_35x35(net: Builder, x: str, name: str, pooled: int) -> str:
    branches = (
        _chain(net, x, name, ("branch1x1", 64, 1, 1, 0)),
        _chain(net, x, name, ("branch5x5_1", 48, 1, 1, 0), ("branch5x5_2", 64, 5, 1, 2)),
        _chain(
            net,
            x,
            name,
            ("branch3x3dbl_1", 64, 1, 1, 0),
            ("branch3x3dbl_2", 96, 3, 1, 1),
            ("branch3x3dbl_3", 96, 3, 1, 1),
        ),
        _pool_branch(net, x, name, pooled),
    )
    return net.concat(branches, f"{name}.concat")


def _reduce_to_17x17(net: Builder, x: str, name: str) -> str:
    branches = (
        _chain(net, x, name, ("branch3x3", 384, 3, 2, 0)),
        _chain(
            net,
            x,
            name,
            ("branch3x3dbl_1", 64, 1, 1, 0),
            ("branch3x3dbl_2", 96, 3, 1, 1),
            ("branch3x3dbl_3", 96, 3, 2, 0),
        ),
        net.max_pool(x, f"{name}.pool", 3, stride=2),
    )
    return net.concat(branches, f"{name}.concat")


def _mixed_17x17(net: Builder, x: str, name: str, width: int) -> str:
    branches = (
        _chain(net, x, name, ("branch1x1", 192, 1, 1, 0)),
        _chain(
            net,
            x,
            name,
            ("branch7x7_1", width, 1, 1, 0),
            ("branch7x7_2", width, (1, 7), 1, (0, 3)),
            ("branch7x7_3", 192, (7, 1), 1, (3, 0)),
        ),
        _chain(
            net,
            x,
            name,
            ("branch7x7dbl_1", width, 1, 1, 0),
            ("branch7x7dbl_2", width, (7, 1), 1, (3, 0)),
            ("branch7x7dbl_3", width, (1, 7), 1, (0, 3)),
            ("branch7x7dbl_4", width, (7, 1), 1, (3, 0)),
            ("branch7x7dbl_5", 192, (1, 7), 1, (0, 3)),
        ),
        _pool_branch(net, x, name, 192),
    )
    return net.concat(branches, f"{name}.concat")


def _reduce_to_8x8(net: Builder, x: str, name: str) -> str:
    branches = (
        _chain(net, x, name, ("branch3x3_1", 192, 1, 1, 0), ("branch3x3_2", 320, 3, 2, 0)),
        _chain(
            net,
            x,
            name,
            ("branch7x7x3_1", 192, 1, 1, 0),
            ("branch7x7x3_2", 192, (1, 7), 1, (0, 3)),
            ("branch7x7x3_3", 192, (7, 1), 1, (3, 0)),
            ("branch7x7x3_4", 192, 3, 2, 0),
        ),
        net.max_pool(x, f"{name}.pool", 3, stride=2),
    )
    return net.concat(branches, f"{name}.concat")


def _mixed_8x8(net: Builder, x: str, name: str) -> str:
    single = _chain(net, x, name, ("branch3x3_1", 384, 1, 1, 0))
    double = _chain(net, x, name, ("branch3x3dbl_1", 448, 1, 1, 0), ("branch3x3dbl_2", 384, 3, 1, 1))
    branches = (
        _chain(net, x, name, ("branch1x1", 320, 1, 1, 0)),
        _fork(net, single, name, "branch3x3_2"),
        _fork(net, double, name, "branch3x3dbl_3"),
        _pool_branch(net, x, name, 192),
    )
    return net.concat(branches, f"{name}.concat")


def _fork(net: Builder, x: str, name: str, branch: str) -> str:
    """Concatenates a row convolution and a column convolution of the same input."""
    row = _chain(net, x, name, (f"{branch}a", 384, (1, 3), 1, (0, 1)))
    column = _chain(net, x, name, (f"{branch}b", 384, (3, 1), 1, (1, 0)))
    return net.concat((row, column), f"{name}.{branch}.concat")


def _pool_branch(net: Builder, x: str, name: str, channels: int) -> str:
    return _chain(net, net.avg_pool(x, f"{name}.pool", 3, 1, padding=1), name, ("branch_pool", channels, 1, 1, 0))


def _chain(net: Builder, x: str, name: str, *convs: _Conv) -> str:
    for suffix, channels, kernel, stride, padding in convs:
        x = _conv(net, x, (f"{name}.{suffix}", channels, kernel, stride, padding))
    return x


def _conv(net: Builder, x: str, conv: _Conv) -> str:
    name, channels, kernel, stride, padding = conv
    return net.relu(net.conv(x, name, channels, kernel, stride, padding), f"{name}.relu")
