"""A builder of ONNX networks with deterministic random weights.

Values are named by strings, as in ONNX: every method takes the names of its inputs, appends one node whose name is
the dotted module path (`layer1.0.conv1`), and returns the name of its output, which is the node's own name.

Source: weights are drawn as in Brock et al., "Characterizing signal propagation to close the performance gap in
unnormalized ResNets" (2021): zero-mean filters scaled to preserve variance through the activation before them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 9

# One over the standard deviation of each activation's output for a standard normal input.
_VARIANCE_GAIN = {"Relu": 1.7139, "Clip": 1.7139, "HardSwish": 1.88, "Mul": 1.79}
_DTYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}

Shape = tuple[int, ...]


class Builder:
    """Builds one network, node by node.

    Attributes:
        batch: Leading size of every input.
        shapes: Static shape of every value defined so far.
    """

    def __init__(
        self, name: str, batch: int = 1, gain: float = 1.0, weights: Mapping[str, npt.NDArray[np.float32]] | None = None
    ) -> None:
        """Starts an empty network.

        Args:
            name: The network's name; it seeds the weights.
            batch: Leading size of every input.
            gain: Factor on the filters of all convolutions; corrects a drift of the activations with depth.
            weights: Trained weights by initializer name, taken in place of random ones.
        """
        self.batch = batch
        self.shapes: dict[str, Shape] = {}
        self._name = name
        self._gain = gain
        self._weights = weights or {}
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._producer: dict[str, str] = {}

    def input(self, name: str, shape: Shape, dtype: npt.DTypeLike = np.float32) -> str:
        """Declares a network input of shape `(batch, *shape)`."""
        self.shapes[name] = (self.batch, *shape)
        self._inputs.append(helper.make_tensor_value_info(name, _DTYPES[np.dtype(dtype)], self.shapes[name]))
        return name

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Adds an initializer; one of the same name is added once."""
        if name not in self.shapes:
            array = np.asarray(value, dtype=dtype)
            self.shapes[name] = array.shape
            self._initializers.append(numpy_helper.from_array(array, name))
        return name

    def random(self, name: str, shape: Shape, std: float, mean: float = 0.0) -> str:
        """Adds a float32 initializer: the trained weight, or normal deviates seeded by the two names."""
        if name in self._weights:
            return self.constant(name, self._weights[name])
        return self.constant(name, self._normal(name, shape) * np.float32(std) + np.float32(mean))

    def filters(self, name: str, shape: Shape, std: float) -> str:
        """Adds a float32 initializer as `random` does, with zero mean over each index of the first axis.

        Such filters ignore the positive mean that a ReLU leaves, so that the signal is not lost in it.
        """
        if name in self._weights:
            return self.constant(name, self._weights[name])
        weight = self._normal(name, shape)
        weight -= weight.mean(axis=tuple(range(1, weight.ndim)), keepdims=True)
        weight *= np.float32(std)
        return self.constant(name, weight)

    def node(
        self, op: str, inputs: Sequence[str], name: str, shapes: Sequence[Shape], **attributes: Any
    ) -> tuple[str, ...]:
        """Appends a node with one output for each shape; a single output bears the node's name."""
        outputs = (name,) if len(shapes) == 1 else tuple(f"{name}.{i}" for i in range(len(shapes)))
        self._nodes.append(helper.make_node(op, list(inputs), list(outputs), name=name, **attributes))
        for output, shape in zip(outputs, shapes, strict=True):
            self.shapes[output] = shape
            self._producer[output] = op
        return outputs

    def map(self, op: str, x: str, name: str, *extra: str, **attributes: Any) -> str:
        """Appends a node whose output has the shape of `x`: activations, normalisations."""
        return self.node(op, [x, *extra], name, [self.shapes[x]], **attributes)[0]

    def conv(
        self,
        x: str,
        name: str,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        gain: float = 1.0,
    ) -> str:
        """Appends a 2-D convolution with random weights.

        Shapes: `x` N,C,H,W; weight K,C/groups,R,S; result N,K,P,Q.

        Args:
            x: Input value.
            name: Node name; the weights are `name.weight` and `name.bias`.
            channels: Output channels K.
            kernel: R,S, or one number for both.
            stride: Step along both axes.
            padding: Rows and columns of zeros on each side, or one number for both.
            groups: Groups of channels.
            bias: Whether there is a bias (absent before an unfolded batch normalisation).
            gain: Standard deviation of the result where the input has unit variance before its activation.
        """
        r, s = _pair(kernel)
        ph, pw = _pair(padding)
        n, c, h, w = self.shapes[x]
        std = gain * self._gain * self._input_gain(x) / math.sqrt(c // groups * r * s)
        inputs = [x, self.filters(f"{name}.weight", (channels, c // groups, r, s), std)]
        if bias:
            inputs.append(self.random(f"{name}.bias", (channels,), 0.05))
        shape = (n, channels, (h + 2 * ph - r) // stride + 1, (w + 2 * pw - s) // stride + 1)
        return self.node(
            "Conv",
            inputs,
            name,
            [shape],
            dilations=[1, 1],
            group=groups,
            kernel_shape=[r, s],
            pads=[ph, pw, ph, pw],
            strides=[stride, stride],
        )[0]

    def bn(self, x: str, name: str, eps: float = 1e-5) -> str:
        """Appends a BatchNormalization (inference) with plausible trained parameters around identity."""
        shape = (self.shapes[x][1],)
        parameters = (
            self.random(f"{name}.weight", shape, 0.1, 1.0),
            self.random(f"{name}.bias", shape, 0.1),
            self.random(f"{name}.running_mean", shape, 0.1),
            self.constant(f"{name}.running_var", 1.0 + 0.2 * np.tanh(self._normal(f"{name}.running_var", shape))),
        )
        return self.map("BatchNormalization", x, name, *parameters, epsilon=eps, momentum=0.9)

    def relu(self, x: str, name: str) -> str:
        """Appends a Relu."""
        return self.map("Relu", x, name)

    def relu6(self, x: str, name: str) -> str:
        """Appends a Clip to [0, 6]; its bounds are initializers shared by the network."""
        return self.map("Clip", x, name, self.constant("relu6.min", 0.0), self.constant("relu6.max", 6.0))

    def hard_sigmoid(self, x: str, name: str) -> str:
        """Appends a HardSigmoid with the slope 1/6 of MobileNetV3."""
        return self.map("HardSigmoid", x, name, alpha=1 / 6, beta=0.5)

    def binary(self, op: str, a: str, b: str, name: str) -> str:
        """Appends an elementwise operator of two inputs, with broadcasting."""
        return self.node(op, [a, b], name, [np.broadcast_shapes(self.shapes[a], self.shapes[b])])[0]

    def add(self, a: str, b: str, name: str) -> str:
        """Appends an Add."""
        return self.binary("Add", a, b, name)

    def mul(self, a: str, b: str, name: str) -> str:
        """Appends a Mul."""
        return self.binary("Mul", a, b, name)

    def max_pool(self, x: str, name: str, kernel: int, stride: int, padding: int = 0, ceil: bool = False) -> str:
        """Appends a MaxPool over square windows."""
        return self._pool("MaxPool", x, name, kernel, stride, padding, ceil, dilations=[1, 1])

    def avg_pool(self, x: str, name: str, kernel: int, stride: int, padding: int = 0) -> str:
        """Appends an AveragePool over square windows that counts the padding."""
        return self._pool("AveragePool", x, name, kernel, stride, padding, False, count_include_pad=1)

    def global_avg_pool(self, x: str, name: str) -> str:
        """Appends a GlobalAveragePool: N,C,H,W to N,C,1,1."""
        return self.node("GlobalAveragePool", [x], name, [(*self.shapes[x][:2], 1, 1)])[0]

    def flatten(self, x: str, name: str) -> str:
        """Appends a Flatten of all axes but the first."""
        n, *rest = self.shapes[x]
        return self.node("Flatten", [x], name, [(n, math.prod(rest))], axis=1)[0]

    def linear(self, x: str, name: str, features: int, gain: float = 1.0) -> str:
        """Appends a Gemm with random weights: N,C to N,`features`; the weight is `features`,C."""
        n, c = self.shapes[x]
        weight = self.filters(f"{name}.weight", (features, c), gain * self._input_gain(x) / math.sqrt(c))
        inputs = [x, weight, self.random(f"{name}.bias", (features,), 0.05)]
        return self.node("Gemm", inputs, name, [(n, features)], alpha=1.0, beta=1.0, transB=1)[0]

    def concat(self, values: Sequence[str], name: str, axis: int = 1) -> str:
        """Appends a Concat."""
        shape = list(self.shapes[values[0]])
        shape[axis] = sum(self.shapes[value][axis] for value in values)
        return self.node("Concat", values, name, [tuple(shape)], axis=axis)[0]

    def split(self, x: str, name: str, sizes: Sequence[int], axis: int = 1) -> tuple[str, ...]:
        """Appends a Split into parts of the given sizes."""
        shape = self.shapes[x]
        shapes = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
        return self.node("Split", [x, self.constant(f"{name}.sizes", sizes, np.int64)], name, shapes, axis=axis)

    def reshape(self, x: str, name: str, shape: Shape) -> str:
        """Appends a Reshape to a static shape."""
        return self.node("Reshape", [x, self.constant(f"{name}.shape", shape, np.int64)], name, [shape])[0]

    def transpose(self, x: str, name: str, perm: Sequence[int]) -> str:
        """Appends a Transpose."""
        shape = tuple(self.shapes[x][axis] for axis in perm)
        return self.node("Transpose", [x], name, [shape], perm=list(perm))[0]

    def model(self, output: str) -> onnx.ModelProto:
        """Returns the network, with `output` renamed `output`."""
        self._nodes[-1].output[0] = "output"
        if output != self._nodes[-1].name:
            raise ValueError(f"{self._name}: {output!r} is not what the last node computes")
        info = helper.make_tensor_value_info("output", TensorProto.FLOAT, self.shapes[output])
        graph = helper.make_graph(self._nodes, self._name, self._inputs, [info], self._initializers)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="softneuro_tvm.zoo")

    def _normal(self, name: str, shape: Shape) -> npt.NDArray[np.float32]:
        seed = [zlib.crc32(self._name.encode()), zlib.crc32(name.encode())]
        return np.random.Generator(np.random.SFC64(seed)).standard_normal(shape, dtype=np.float32)

    def _input_gain(self, x: str) -> float:
        return _VARIANCE_GAIN.get(self._producer.get(x, ""), 1.0)

    def _pool(
        self, op: str, x: str, name: str, kernel: int, stride: int, padding: int, ceil: bool, **attributes: Any
    ) -> str:
        n, c, h, w = self.shapes[x]
        round_up = stride - 1 if ceil else 0
        p, q = ((size + 2 * padding - kernel + round_up) // stride + 1 for size in (h, w))
        return self.node(
            op,
            [x],
            name,
            [(n, c, p, q)],
            ceil_mode=int(ceil),
            kernel_shape=[kernel, kernel],
            pads=[padding] * 4,
            strides=[stride, stride],
            **attributes,
        )[0]


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
