"""Trains the network of `zoo:digits` on scikit-learn's handwritten digits and writes its weights into the package.

The 1797 images (8x8, values 0 to 16) are split, stratified by class and with fixed seeds, into

    1200  training: the only ones whose gradients are taken, with random small affine distortions
     237  validation: choose the epoch whose weights are kept
     360  held out: evaluated once, after the epoch is chosen; stored in `digits_test.npz` for the tests

Needs numpy and scikit-learn (with its dependencies scipy and threadpoolctl); takes about two minutes on one core. A
second run on the same machine writes the same files; elsewhere the weights may differ, since BLAS libraries sum in
different orders, and training amplifies the difference.

    python scripts/train_digits.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

PACKAGE = Path(__file__).resolve().parents[1] / "softneuro_tvm" / "zoo"
SEED = 0
HELD_OUT, VALIDATION = 360, 237
EPOCHS, BATCH = 80, 60
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-2


class Layer:
    """A step of the network: remembers in `forward` what `backward` needs.

    `parameters` and `gradients` map the same names to arrays of the same shapes.
    """

    def __init__(self) -> None:
        """Starts without parameters."""
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}

    def forward(self, x: Array) -> Array:
        """Returns the output for `x`."""
        raise NotImplementedError

    def backward(self, dy: Array) -> Array:
        """Returns the gradient by the input, given the one by the output, and sets `gradients`."""
        raise NotImplementedError


class Conv(Layer):
    """Stride-1 convolution with an odd square kernel and `same` zero padding: N,C,H,W to N,K,H,W."""

    def __init__(self, rng: np.random.Generator, name: str, c: int, k: int, size: int, gain: float = 2.0) -> None:
        """Draws the K,C,R,S weights."""
        super().__init__()
        self.name, self.size = name, size
        std = np.sqrt(gain / (c * size * size))
        weight = rng.standard_normal((k, c, size, size)) * std
        self.parameters = {f"{name}.weight": weight.astype(np.float32), f"{name}.bias": np.zeros(k, np.float32)}

    def forward(self, x: Array) -> Array:
        """Correlates `x` with the filters."""
        self.windows = self._windows(x)
        weight, bias = self.parameters[f"{self.name}.weight"], self.parameters[f"{self.name}.bias"]
        y = np.tensordot(self.windows, weight, axes=((1, 4, 5), (1, 2, 3))) + bias
        return np.ascontiguousarray(y.transpose(0, 3, 1, 2))

    def backward(self, dy: Array) -> Array:
        """Correlates `dy` with the flipped filters."""
        weight = self.parameters[f"{self.name}.weight"]
        self.gradients = {
            f"{self.name}.weight": np.tensordot(dy, self.windows, axes=((0, 2, 3), (0, 2, 3))),
            f"{self.name}.bias": dy.sum(axis=(0, 2, 3)),
        }
        flipped = weight[:, :, ::-1, ::-1]
        dx = np.tensordot(self._windows(dy), flipped, axes=((1, 4, 5), (0, 2, 3)))
        return np.ascontiguousarray(dx.transpose(0, 3, 1, 2))

    def _windows(self, x: Array) -> Array:
        margin = self.size // 2
        padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        return np.lib.stride_tricks.sliding_window_view(padded, (self.size, self.size), axis=(2, 3))


class Depthwise(Layer):
    """3x3 convolution of each channel by itself, `same` zero padding; the weight is C,1,3,3."""

    def __init__(self, rng: np.random.Generator, name: str, c: int) -> None:
        """Draws the weights."""
        super().__init__()
        self.name = name
        weight = rng.standard_normal((c, 1, 3, 3)) * np.sqrt(2 / 9)
        self.parameters = {f"{name}.weight": weight.astype(np.float32), f"{name}.bias": np.zeros(c, np.float32)}

    def forward(self, x: Array) -> Array:
        """Sums the nine shifted copies of `x`."""
        self.padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        weight, bias = self.parameters[f"{self.name}.weight"], self.parameters[f"{self.name}.bias"]
        h, w = x.shape[2:]
        y = np.zeros_like(x) + bias[:, None, None]
        for i, j in np.ndindex(3, 3):
            y += self.padded[:, :, i : i + h, j : j + w] * weight[:, 0, i, j, None, None]
        return y

    def backward(self, dy: Array) -> Array:
        """Scatters `dy` back through the nine shifts."""
        weight = self.parameters[f"{self.name}.weight"]
        h, w = dy.shape[2:]
        dweight, dpadded = np.zeros_like(weight), np.zeros_like(self.padded)
        for i, j in np.ndindex(3, 3):
            dweight[:, 0, i, j] = (self.padded[:, :, i : i + h, j : j + w] * dy).sum(axis=(0, 2, 3))
            dpadded[:, :, i : i + h, j : j + w] += dy * weight[:, 0, i, j, None, None]
        self.gradients = {f"{self.name}.weight": dweight, f"{self.name}.bias": dy.sum(axis=(0, 2, 3))}
        return dpadded[:, :, 1:-1, 1:-1]


class Dense(Layer):
    """Affine map N,C to N,K; the weight is K,C."""

    def __init__(self, rng: np.random.Generator, name: str, c: int, k: int) -> None:
        """Draws the weights."""
        super().__init__()
        self.name = name
        weight = rng.standard_normal((k, c)) / np.sqrt(c)
        self.parameters = {f"{name}.weight": weight.astype(np.float32), f"{name}.bias": np.zeros(k, np.float32)}

    def forward(self, x: Array) -> Array:
        """Multiplies by the transposed weight."""
        self.x = x
        y: Array = x @ self.parameters[f"{self.name}.weight"].T + self.parameters[f"{self.name}.bias"]
        return y

    def backward(self, dy: Array) -> Array:
        """Multiplies by the weight."""
        self.gradients = {f"{self.name}.weight": dy.T @ self.x, f"{self.name}.bias": dy.sum(axis=0)}
        return dy @ self.parameters[f"{self.name}.weight"]


class Relu(Layer):
    """Positive part."""

    def forward(self, x: Array) -> Array:
        """Clears the negative values."""
        self.positive = x > 0
        return x * self.positive

    def backward(self, dy: Array) -> Array:
        """Passes the gradient where the input was positive."""
        return dy * self.positive


class MaxPool(Layer):
    """Maximum of each 2x2 block."""

    def forward(self, x: Array) -> Array:
        """Halves the height and the width."""
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // 2, 2, w // 2, 2)
        y: Array = blocks.max(axis=(3, 5))
        largest = blocks == y[:, :, :, None, :, None]
        self.share: Array = largest / largest.sum(axis=(3, 5), keepdims=True, dtype=np.float32)
        return y

    def backward(self, dy: Array) -> Array:
        """Divides the gradient among the maxima of each block."""
        dx: Array = self.share * dy[:, :, :, None, :, None]
        n, c, h, _, w, _ = dx.shape
        return dx.reshape(n, c, 2 * h, 2 * w)


class GlobalAverage(Layer):
    """Mean of each channel: N,C,H,W to N,C."""

    def forward(self, x: Array) -> Array:
        """Averages over the image."""
        self.shape = x.shape
        y: Array = x.mean(axis=(2, 3))
        return y

    def backward(self, dy: Array) -> Array:
        """Spreads the gradient over the image."""
        return np.broadcast_to(dy[:, :, None, None], self.shape) / np.float32(self.shape[2] * self.shape[3])


class Chain(Layer):
    """Layers one after the other, with a skip connection around them if `residual`."""

    def __init__(self, *layers: Layer, residual: bool = False) -> None:
        """Collects the layers' parameters."""
        super().__init__()
        self.layers, self.residual = layers, residual
        for layer in layers:
            self.parameters |= layer.parameters

    def forward(self, x: Array) -> Array:
        """Applies the layers in order."""
        y = x
        for layer in self.layers:
            y = layer.forward(y)
        return x + y if self.residual else y

    def backward(self, dy: Array) -> Array:
        """Applies the layers' gradients in reverse order."""
        dx = dy
        for layer in reversed(self.layers):
            dx = layer.backward(dx)
            self.gradients |= layer.gradients
        return dx + dy if self.residual else dx


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2017), updating arrays in place."""

    def __init__(self, parameters: dict[str, Array]) -> None:
        """Starts with zero moments."""
        self.parameters, self.step_count = parameters, 0
        self.mean = {name: np.zeros_like(value) for name, value in parameters.items()}
        self.square = {name: np.zeros_like(value) for name, value in parameters.items()}

    def step(self, gradients: dict[str, Array], rate: float) -> None:
        """Takes one step of the given learning rate."""
        self.step_count += 1
        for name, value in self.parameters.items():
            self.mean[name] += 0.1 * (gradients[name] - self.mean[name])
            self.square[name] += 0.01 * (gradients[name] ** 2 - self.square[name])
            mean = self.mean[name] / (1 - 0.9**self.step_count)
            square = self.square[name] / (1 - 0.99**self.step_count)
            decay = WEIGHT_DECAY if name.endswith(".weight") else 0.0
            value -= np.float32(rate) * (mean / (np.sqrt(square) + np.float32(1e-8)) + np.float32(decay) * value)


def network(rng: np.random.Generator) -> Chain:
    """Returns the network that `softneuro_tvm/zoo/digits.py` writes as ONNX; parameters bear the same names."""
    block = Chain(
        Conv(rng, "residual.conv1", 32, 32, 3), Relu(), Conv(rng, "residual.conv2", 32, 32, 3, gain=0.5), residual=True
    )
    return Chain(
        *(Conv(rng, "conv1", 1, 16, 3), Relu()),
        *(Depthwise(rng, "depthwise", 16), Relu()),
        *(Conv(rng, "pointwise", 16, 32, 1), Relu(), MaxPool()),
        *(block, Relu(), MaxPool()),
        *(Conv(rng, "conv2", 32, 64, 3), Relu(), GlobalAverage()),
        Dense(rng, "fc", 64, 10),
    )


def upscale(pixels: npt.NDArray[np.uint8]) -> Array:
    """Turns N,8,8 pixels of 0 to 16 into the network's input: N,1,16,16 of 0 to 1, each pixel twice each way."""
    return (pixels[:, None].repeat(2, axis=2).repeat(2, axis=3) / 16).astype(np.float32)


def distort(rng: np.random.Generator, images: Array) -> Array:
    """Rotates, scales, shears and shifts each image by a small random amount, with linear interpolation."""
    centre = np.array([7.5, 7.5])
    result = np.empty_like(images)
    for image, out in zip(images[:, 0], result[:, 0], strict=True):
        matrix = np.eye(2) + rng.uniform(-0.15, 0.15, (2, 2))
        offset = centre - matrix @ centre + rng.uniform(-1.5, 1.5, 2)
        ndimage.affine_transform(image, matrix, offset, output=out, order=1)
    return result


def loss_and_gradient(logits: Array, labels: Labels) -> tuple[float, Array]:
    """Returns the mean cross entropy in nats, and its gradient by the logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    gradient = np.exp(log_p)
    gradient[rows, labels] -= 1
    return float(-log_p[rows, labels].mean()), gradient / np.float32(len(labels))


def accuracy(net: Chain, images: Array, labels: Labels) -> float:
    """Returns the share of images whose largest logit is at the label."""
    return float((net.forward(images).argmax(axis=1) == labels).mean())


def train(images: Array, labels: Labels, val_images: Array, val_labels: Labels) -> Chain:
    """Trains with a cosine learning rate and returns the network of the epoch with the best validation result."""
    rng = np.random.default_rng(SEED)
    net = network(rng)
    optimizer = AdamW(net.parameters)
    steps = EPOCHS * (len(images) // BATCH)
    best, kept = (0.0, 0.0), {}
    for epoch in range(EPOCHS):
        order = rng.permutation(len(images))
        losses = []
        for start in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            loss, gradient = loss_and_gradient(net.forward(distort(rng, images[chosen])), labels[chosen])
            net.backward(gradient)
            optimizer.step(net.gradients, LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * optimizer.step_count / steps)))
            losses.append(loss)
        # The loss breaks ties: with 237 images the accuracy takes few values.
        score = (
            accuracy(net, val_images, val_labels),
            -loss_and_gradient(net.forward(val_images), val_labels)[0],
        )
        if score > best:
            best, kept = score, {name: value.copy() for name, value in net.parameters.items()}
        print(
            f"epoch {epoch + 1:3d}/{EPOCHS}  training loss {np.mean(losses):.4f}  "
            f"validation accuracy {score[0]:.4f} loss {-score[1]:.4f}",
            flush=True,
        )
    for name, value in net.parameters.items():
        value[...] = kept[name]
    return net


def main() -> None:
    """Trains, reports the accuracies, and writes the two files."""
    parser = argparse.ArgumentParser(description="Train the network of zoo:digits.")
    parser.add_argument("--out", type=Path, default=PACKAGE, help="folder for digits.npz and digits_test.npz")
    out: Path = parser.parse_args().out

    digits = load_digits()
    pixels, labels = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    rest, test, rest_labels, test_labels = train_test_split(
        pixels, labels, test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    training, validation, training_labels, validation_labels = train_test_split(
        rest, rest_labels, test_size=VALIDATION, stratify=rest_labels, random_state=SEED
    )
    print(f"{len(training)} training, {len(validation)} validation, {len(test)} held-out images")
    # The order of a sum depends on the number of threads.
    with threadpool_limits(limits=1):
        net = train(upscale(training), training_labels, upscale(validation), validation_labels)
    for part, images, truth in (
        ("training", training, training_labels),
        ("validation", validation, validation_labels),
        ("held-out", test, test_labels),
    ):
        print(f"{part} accuracy {accuracy(net, upscale(images), truth):.4f}")
    weights: dict[str, Any] = dict(net.parameters)
    np.savez_compressed(out / "digits.npz", **weights)
    np.savez_compressed(out / "digits_test.npz", pixels=test, labels=test_labels.astype(np.uint8))


if __name__ == "__main__":
    main()
