"""The list of networks: what each takes and which function defines it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from softneuro_tvm.zoo import (
    densenet,
    digits,
    efficientnet,
    inception,
    mobilenet,
    resnet,
    shufflenet,
    squeezenet,
    transformer,
    unet,
    vgg,
    yolo,
)
from softneuro_tvm.zoo.builder import Builder


@dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    Attributes:
        define: Adds the network to a builder: takes the builder and the input value, returns the output value.
        input_shape: Shape of the input without the batch.
        vocabulary: Number of token ids for an int64 input; 0 for a float32 image.
        gain: The builder's gain, chosen so that activations keep their scale over the depth.
        weights: Returns the trained weights by initializer name; what it lacks is random.
    """

    define: Callable[[Builder, str], str]
    input_shape: tuple[int, ...] = (3, 224, 224)
    vocabulary: int = 0
    gain: float = 1.0
    weights: Callable[[], dict[str, npt.NDArray[np.float32]]] = dict

    @property
    def input_name(self) -> str:
        """Name of the network's only input."""
        return "input_ids" if self.vocabulary else "input"


SEED = {
    "resnet18": Entry(resnet.resnet18),
    "resnet50": Entry(resnet.resnet50),
    "vgg16": Entry(vgg.vgg16, gain=1.15),
    "mobilenet_v2": Entry(mobilenet.mobilenet_v2, gain=1.05),
    "mobilenet_v3_large": Entry(mobilenet.mobilenet_v3_large, gain=1.12),
    "shufflenet_v2": Entry(shufflenet.shufflenet_v2, gain=1.27),
    "digits": Entry(digits.digits, (1, 16, 16), weights=digits.digits_weights),
}
EXTRA: dict[str, Entry] = {
    "squeezenet1_1": Entry(squeezenet.squeezenet1_1, gain=1.27),
    "densenet121": Entry(densenet.densenet121, gain=1.05),
    "inception_v3": Entry(inception.inception_v3, (3, 299, 299), gain=1.2),
    "efficientnet_b0": Entry(efficientnet.efficientnet_b0, gain=1.26),
    "resnext50_32x4d": Entry(resnet.resnext50_32x4d),
    "vit_tiny": Entry(transformer.vit_tiny),
    "bert_tiny": Entry(transformer.bert_tiny, (32,), vocabulary=transformer.BERT_VOCABULARY),
    "unet": Entry(unet.unet, (3, 128, 128), gain=1.15),
    "yolov5n": Entry(yolo.yolov5n, (3, 320, 320), gain=1.1),
}
