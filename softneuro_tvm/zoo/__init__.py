"""Networks built locally: the seed models, a trained digit classifier, and further ones for tests.

Architectures are torchvision's, written as its ONNX exports are (opset 17); weights are random but deterministic,
except those of `digits`, which are trained. Building one needs `onnx` and numpy only.
"""

from __future__ import annotations

import difflib
import os
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from softneuro_tvm.errors import ModelError
from softneuro_tvm.zoo.builder import Builder
from softneuro_tvm.zoo.catalogue import EXTRA, SEED, Entry
from softneuro_tvm.zoo.digits import digits_test

__all__ = ["digits_test", "extra_names", "model", "names", "resolve", "sample_input", "save"]

_PREFIX = "zoo:"


def names() -> tuple[str, ...]:
    """Returns the names of the seed models."""
    return tuple(SEED)


def extra_names() -> tuple[str, ...]:
    """Returns the names of the further networks, for tests and experiments."""
    return tuple(EXTRA)


def model(name: str, batch: int = 1) -> onnx.ModelProto:
    """Builds a network.

    Args:
        name: One of `names()` or `extra_names()`.
        batch: Leading size of the input.

    Returns:
        The ONNX model: one input (`input`, or `input_ids` for token ids), one float32 output (`output`).

    Raises:
        ModelError: The name is unknown or the batch is not positive.
    """
    entry = _entry(name)
    if batch < 1:
        raise ModelError(f"zoo:{name}: batch must be at least 1, not {batch}")
    net = Builder(name, batch, entry.gain, entry.weights())
    x = net.input(entry.input_name, entry.input_shape, np.int64 if entry.vocabulary else np.float32)
    return net.model(entry.define(net, x))


def resolve(address: str) -> onnx.ModelProto:
    """The network that an address such as `zoo:resnet18` names; the last one is held, as tuning asks for it twice.

    Returns:
        A copy of its own for each caller.

    Raises:
        ModelError: The address does not start with `zoo:`, or the name is unknown.
    """
    if not address.startswith(_PREFIX):
        raise ModelError(f"{address!r} is not an address in the model zoo; write {_PREFIX}NAME, as in zoo:resnet18")
    found = onnx.ModelProto()
    found.CopyFrom(_held(address.removeprefix(_PREFIX)))
    return found


@lru_cache(maxsize=1)
def _held(name: str) -> onnx.ModelProto:
    return model(name)


def save(name: str, path: str | os.PathLike[str], batch: int = 1) -> None:
    """Builds a network and writes it as an ONNX file."""
    onnx.save_model(model(name, batch), os.fspath(path))


def sample_input(name: str, batch: int = 1) -> dict[str, npt.NDArray[Any]]:
    """Returns a deterministic input of a network, by input name.

    Images have zero mean, unit variance, and structure at several scales, as in nature; token ids are uniform.
    For `digits` they are the first held-out images, repeated as needed.
    """
    entry = _entry(name)
    if name == "digits":
        images = digits_test()[0]
        return {entry.input_name: images[np.arange(batch) % len(images)]}
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shape = (batch, *entry.input_shape)
    if entry.vocabulary:
        return {entry.input_name: rng.integers(entry.vocabulary, size=shape, dtype=np.int64)}
    image = np.zeros(shape, np.float32)
    height, width = shape[2:]
    for cell in (1, 4, 16, 64):
        coarse = rng.standard_normal((*shape[:2], -(-height // cell), -(-width // cell)), dtype=np.float32)
        image += coarse.repeat(cell, axis=2).repeat(cell, axis=3)[:, :, :height, :width]
    return {entry.input_name: image / np.float32(2.0)}


def _entry(name: str) -> Entry:
    entries = SEED | EXTRA
    if name not in entries:
        close = difflib.get_close_matches(name, entries, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "softneuro_tvm.zoo.names() lists them"
        raise ModelError(f"the model zoo has no network {name!r}; {hint}")
    return entries[name]
