"""Products of 8-bit integers in vector registers: the instructions that sum them, and requantisation of the sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._quantized import QuantizedAttributes
from softneuro_tvm.routine import Variant

from ._tir import Expr, Kernel
from ._vectors import shuffle

ROUND = 12582912.0
"""1.5 * 2^23: a float32 near it ends with its integer part, rounded to nearest even, in two's complement."""

BLOCK = 16
"""Channels side by side in the layout of 8-bit maps: 128 bits, the outputs of one to four vectors of int32 sums."""

LAYOUT = f"NCHW{BLOCK}c"
"""Layout of 8-bit feature maps."""

FLIP = -128
"""Exclusive or with it turns int8 into uint8 that is larger by 128, and uint8 into int8 that is smaller by 128."""

_ELEMENTS = {
    "vpdpbusd": ("uint8", 4),
    "sdot": ("int8", 4),
    "smull": ("int8", 2),
    "pmaddwd": ("int16", 2),
    "widened": ("int16", 1),
}
"""Of each instruction: the type that activations must have, and how many neighbours each int32 lane sums."""

_CALLS = {
    ("vpdpbusd", 16): "llvm.x86.avx512.vpdpbusd.512",
    ("vpdpbusd", 8): "llvm.x86.avx512.vpdpbusd.256",
    ("pmaddwd", 16): "llvm.x86.avx512.pmaddw.d.512",
    ("pmaddwd", 8): "llvm.x86.avx2.pmadd.wd",
    ("pmaddwd", 4): "llvm.x86.sse2.pmadd.wd",
    ("sdot", 4): "llvm.aarch64.neon.sdot.v4i32.v16i8",
}


@dataclass(frozen=True)
class Dot:
    """An instruction that adds sums of products to int32 lanes: exact, it never saturates.

    Lane l of a sum gains ``x[l * group + e] * w[l * group + e]``, summed over e.

    Args:
        name: ``vpdpbusd``, ``sdot``, ``smull`` (with ``sadalp``), ``pmaddwd``, or ``widened``, which all machines have:
            a multiply-add of int32.
        lanes: int32 lanes of a vector.
    """

    name: str
    lanes: int

    @staticmethod
    def of(device: Device) -> Dot:
        """The best that code for this device may use: the target says, as it decides what LLVM can select."""
        target = device.target
        has = _features(str(target.get("mtriple", "")), str(target.get("mcpu", "")), tuple(target.get("mattr", ())))
        if device.machine == "aarch64":
            return Dot("sdot" if "dotprod" in has else "smull", 4)
        if device.machine == "x86_64":
            if device.vector_lanes == 16 and "avx512bw" in has:
                return Dot("vpdpbusd" if "avx512vnni" in has else "pmaddwd", 16)
            if "avx2" in has:
                has_vnni = "avxvnni" in has or {"avx512vnni", "avx512vl"} <= has
                return Dot("vpdpbusd" if has_vnni else "pmaddwd", 8)
            return Dot("pmaddwd", 4)
        return Dot("widened", device.vector_lanes)

    @staticmethod
    def chosen(variant: Variant) -> Dot:
        """The one that a variant's parameters name."""
        return Dot(str(variant["dot"]), int(variant["lanes"]))

    @property
    def element(self) -> str:
        """Type in which activations are multiplied."""
        return _ELEMENTS[self.name][0]

    @property
    def group(self) -> int:
        """Neighbouring elements that one lane sums."""
        return _ELEMENTS[self.name][1]

    @property
    def unroll(self) -> int:
        """Groups in one loop body. LLVM adds up several products of `pmaddwd` first, and then lacks registers."""
        return 2 if self.name == "pmaddwd" else 4

    @property
    def by_lane(self) -> bool:
        """True if groups come from lanes of registers, as on NEON, and not by broadcasts from memory."""
        return self.name in ("sdot", "smull")

    @property
    def spare(self) -> int:
        """Registers besides sums, weights and one activation: for products that are added afterwards."""
        return {"pmaddwd": 1, "smull": 4}.get(self.name, 0)

    def shift(self, dtype: str) -> int:
        """What `converted` adds to elements of this type."""
        if self.element == dtype or self.element == "int16":
            return 0
        return 128 if dtype == "int8" else -128

    def converted(self, value: Expr, dtype: str, lanes: int) -> Expr:
        """A vector of 8-bit activations as the instruction takes them, larger by `shift`."""
        if self.element == dtype:
            return value
        if self.element == "int16":
            return T.Cast(_vector("int16", lanes), value)
        signed = value if dtype == "int8" else T.reinterpret(_vector("int8", lanes), value)
        flipped = tirx.bitwise_xor(signed, Kernel.splat(tirx.const(FLIP, "int8"), lanes))
        return flipped if self.element == "int8" else T.reinterpret(_vector("uint8", lanes), flipped)

    def weights(self, value: Expr) -> Expr:
        """A vector of int8 weights as the instruction takes them."""
        return T.Cast(_vector("int16", self.lanes * self.group), value) if self.element == "int16" else value

    def spread(self, buffer: Any, at: Expr) -> Expr:
        """The group of elements at an address, in all lanes."""
        loaded = Kernel.load(buffer, at, self.group)
        carrier = loaded if self.group == 1 else T.reinterpret(self._carrier, loaded)
        return self._groups(T.broadcast(carrier, self.lanes))

    def spread_lanes(self, buffer: Any, at: Expr, number: int) -> list[Expr]:
        """As `spread`, for `number` groups side by side, from one load of a power of two of groups."""
        length = 1 << (number - 1).bit_length()
        loaded = Kernel.load(buffer, at, length * self.group)
        groups = Kernel.bind(T.reinterpret(_vector(self._carrier, length), loaded))
        return [self._groups(shuffle([groups], length, [q] * self.lanes)) for q in range(number)]

    @property
    def _carrier(self) -> str:
        """The integer type as large as a group."""
        return f"int{8 * np.dtype(self.element).itemsize * self.group}"

    def _groups(self, carriers: Expr) -> Expr:
        lanes = self.lanes * self.group
        return carriers if self._carrier == self.element else T.reinterpret(_vector(self.element, lanes), carriers)

    def add(self, total: Expr, x: Expr, weights: Expr) -> Expr:
        """A vector of sums with one more product in each lane."""
        wide = f"int32x{self.lanes}"
        match self.name:
            case "vpdpbusd":
                return T.call_llvm_pure_intrin(wide, _CALLS[self.name, self.lanes], total, x, weights)
            case "sdot":  # the last operand may be a lane
                return T.call_llvm_pure_intrin(wide, _CALLS[self.name, self.lanes], total, weights, x)
            case "pmaddwd":
                return total + T.call_llvm_pure_intrin(wide, _CALLS[self.name, self.lanes], x, weights)
            case "smull":
                product = T.call_llvm_pure_intrin("int16x8", "llvm.aarch64.neon.smull.v8i16", x, weights)
                return total + T.call_llvm_pure_intrin(wide, "llvm.aarch64.neon.saddlp.v4i32.v8i16", product)
            case _:
                return total + T.Cast(wide, x) * T.Cast(wide, weights)


@lru_cache
def _features(mtriple: str, mcpu: str, mattr: tuple[str, ...]) -> frozenset[str]:
    """Which of the extensions that matter here LLVM may use for a target."""
    parts: dict[str, Any] = {"kind": "llvm"} | {k: v for k, v in (("mtriple", mtriple), ("mcpu", mcpu)) if v}
    target = tvm.target.Target(parts | ({"mattr": list(mattr)} if mattr else {}))
    known = ("dotprod", "avx2", "avx512bw", "avx512vl", "avx512vnni", "avxvnni")
    return frozenset(name for name in known if tvm.target.codegen.target_has_features(name, target))


def _vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def zero(dtype: str, lanes: int) -> Expr:
    """A vector of zeros."""
    return Kernel.splat(tirx.const(0, dtype), lanes)


def pin(value: Expr, dtype: str, lanes: int) -> Expr:
    """Computes a vector once; see `Kernel.pin`."""
    register = Kernel.scratch(lanes, dtype)
    Kernel.store(register, 0, value, lanes)
    return Kernel.load(register, 0, lanes)


def declare(ports: Mapping[str, tuple[Sequence[int], str]]) -> dict[str, Any]:
    """Declares buffer arguments, (shape, type) by name; returns flat views, indexed by element."""
    declared = {name: T.arg(name, T.buffer(tuple(shape), dtype)) for name, (shape, dtype) in ports.items()}
    return {
        name: T.decl_buffer((prod(ports[name][0]),), ports[name][1], data=buffer.data)
        for name, buffer in declared.items()
    }


def formats(workload: Workload, source: str, target: str) -> tuple[tuple[Format, ...], tuple[Format, ...]]:
    """Formats of the ports: the input in layout `source`, the output in `target`."""
    return (Format(source, workload.inputs[0].dtype),), (Format(target, workload.outputs[0].dtype),)


def corrected(workload: Workload, dot: Dot, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """The bias of sums of elements from which no zero point is subtracted, and to which `Dot.shift` is added."""
    sums = weights["weight"].astype(np.int64).reshape(len(weights["bias"]), -1).sum(axis=1)
    return np.asarray(weights["bias"] - converted_zero(workload, dot) * sums).astype("int32")


def converted_zero(workload: Workload, dot: Dot) -> int:
    """The element that stands for 0 after `Dot.converted`."""
    return int(workload.attributes.input_zero_point) + dot.shift(workload.inputs[0].dtype)


def requantized(total: Expr, multiplier: Expr, attributes: QuantizedAttributes, lanes: int) -> Expr:
    """A vector of sums, scaled, rounded and clamped, as int32 lanes of which only the low 8 bits count."""
    zero_point = attributes.output_zero_point
    low, high = (Kernel.splat(float(bound - zero_point), lanes) for bound in (attributes.low, attributes.high))
    scaled = T.Cast(_vector("float32", lanes), total) * multiplier
    clamped = T.min(T.max(scaled, low), high) + Kernel.splat(ROUND, lanes)
    return T.reinterpret(_vector("int32", lanes), clamped) + Kernel.splat(tirx.const(zero_point, "int32"), lanes)


def narrowed(vectors: Sequence[Expr], lanes: int, dtype: str) -> Expr:
    """The low 8 bits of the lanes of some vectors, as one vector."""
    joined = vectors[0] if len(vectors) == 1 else shuffle(vectors, lanes, range(len(vectors) * lanes))
    return T.Cast(_vector(dtype, len(vectors) * lanes), joined)
