"""How the stride splits a transposed convolution into phases, each an ordinary convolution with stride 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.graph import Workload

from .._tir import Expr, ceil_div


@dataclass(frozen=True)
class Phase:
    """The outputs of one remainder modulo the stride, along one axis.

    Args:
        count: Number of outputs: `first`, `first` + stride..
        taps: Kernel positions that they read, in order.
        shift: Output number t reads input t + shift under the first tap.
    """

    count: int
    taps: tuple[int, ...]
    shift: int


@dataclass(frozen=True)
class Axis:
    """One axis of a transposed convolution.

    Args:
        source: Extent of the input.
        target: Extent of the output.
        kernel: Extent of the kernel.
        stride: Distance of neighbouring inputs in the output.
        dilation: Distance of neighbouring kernel positions in the output.
        before: Outputs cut off at the start.
    """

    source: int
    target: int
    kernel: int
    stride: int
    dilation: int
    before: int

    @staticmethod
    def of(workload: Workload, axis: int) -> Axis:
        """The vertical (0) or horizontal (1) axis of a workload."""
        a = workload.attributes
        source, target = workload.inputs[0].shape[2 + axis], workload.outputs[0].shape[2 + axis]
        kernel = workload.weight_types["weight"].shape[2 + axis]
        # one input has any stride: with the kernel's extent, every output reads it under a single tap
        is_single = source == 1 and target == kernel and a.padding[axis] == 0 and a.dilation[axis] == 1
        return Axis(source, target, kernel, kernel if is_single else a.strides[axis], a.dilation[axis], a.padding[axis])

    @property
    def step(self) -> int:
        """Inputs from one tap of a phase back to the next."""
        return self.dilation // gcd(self.dilation, self.stride)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Every phase that has outputs; the index of a phase is its first output."""
        found = []
        for first in range(min(self.stride, self.target)):
            place = first + self.before
            taps = tuple(r for r in range(self.kernel) if (place - r * self.dilation) % self.stride == 0)
            shift = (place - taps[0] * self.dilation) // self.stride if taps else 0
            found.append(Phase(ceil_div(self.target - first, self.stride), taps, shift))
        return tuple(found)

    @property
    def count(self) -> int:
        """Outputs of the longest phase."""
        return self.phases[0].count

    @property
    def low(self) -> int:
        """The input that output number 0 of some phase reaches back to."""
        return min((p.shift - (len(p.taps) - 1) * self.step for p in self.phases if p.taps), default=0)

    @property
    def high(self) -> int:
        """The input furthest on that output number 0 of some phase reads."""
        return max((p.shift for p in self.phases if p.taps), default=0)

    @property
    def is_inside(self) -> bool:
        """True if no output reads beyond the input."""
        return self.low >= 0 and all(p.shift + p.count <= self.source for p in self.phases if p.taps)

    @property
    def is_even(self) -> bool:
        """True if all phases read the same inputs, one each."""
        first = self.phases[0]
        return all((len(p.taps), p.shift, p.count) == (1, first.shift, first.count) for p in self.phases)

    @property
    def order(self) -> tuple[int, ...]:
        """Kernel positions phase by phase."""
        return tuple(tap for phase in self.phases for tap in phase.taps)


def table(values: Sequence[int], index: Expr) -> Expr:
    """An entry of a constant table, computed from an index known when the kernel runs."""
    if isinstance(index, int):
        return values[index]
    steps = set(np.diff(values).tolist())
    if len(steps) == 1:
        step = steps.pop()
        return values[0] + index * step if step else values[0]
    found: Expr = values[-1]
    for place in range(len(values) - 2, -1, -1):
        if values[place] != values[place + 1]:
            found = T.Select(index <= place, values[place], found)
    return found
