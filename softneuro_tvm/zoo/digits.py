"""A small trained classifier of handwritten digits: every kind of layer that a mobile network has, in 39,000 weights.

Trained on scikit-learn's digits, the test part of the UCI "Optical recognition of handwritten digits" data (Alpaydin
and Kaynak, 1998), by `scripts/train_digits.py`, which states the split.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from softneuro_tvm.zoo.builder import Builder


def digits(net: Builder, x: str) -> str:
    """Convolution, depthwise separable convolution, residual block, convolution, dense layer: N,1,16,16 to N,10."""
    x = net.relu(net.conv(x, "conv1", 16, 3, padding=1), "relu1")
    x = net.relu(net.conv(x, "depthwise", 16, 3, padding=1, groups=16), "relu2")
    x = net.relu(net.conv(x, "pointwise", 32, 1), "relu3")
    x = net.max_pool(x, "pool1", 2, stride=2)
    y = net.relu(net.conv(x, "residual.conv1", 32, 3, padding=1), "residual.relu1")
    y = net.conv(y, "residual.conv2", 32, 3, padding=1)
    x = net.relu(net.add(x, y, "residual.add"), "residual.relu2")
    x = net.max_pool(x, "pool2", 2, stride=2)
    x = net.relu(net.conv(x, "conv2", 64, 3, padding=1), "relu4")
    x = net.flatten(net.global_avg_pool(x, "avgpool"), "flatten")
    return net.linear(x, "fc", 10)


def digits_weights() -> dict[str, npt.NDArray[np.float32]]:
    """Returns the trained weights by initializer name."""
    return _load("digits.npz")


def digits_test() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Returns the 360 held-out images, ready for the network, and their labels.

    Returns:
        Images N,1,16,16: the 8x8 originals with each pixel doubled both ways, and 0..16 scaled to 0..1; labels N.
    """
    arrays = _load("digits_test.npz")
    images = arrays["pixels"][:, None].repeat(2, axis=2).repeat(2, axis=3).astype(np.float32) / np.float32(16)
    return images, arrays["labels"].astype(np.int64)


def _load(filename: str) -> dict[str, npt.NDArray[Any]]:
    with (resources.files("softneuro_tvm.zoo") / filename).open("rb") as file, np.load(file) as arrays:
        return dict(arrays)
