"""Fully connected layers of one or a few rows, with many zero weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import comb, prod
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from softneuro_tvm.device import Device
from softneuro_tvm.formats import canonical_format
from softneuro_tvm.graph import Workload
from softneuro_tvm.layers._sparsity import most_weights
from softneuro_tvm.routine import Requirement, Routine, Variant

from .._blocked import Epilogue, pack_channel_vectors, pad_axis
from .._products import Sizes
from .._rows import pieces
from .._sparse import ERROR_BOUND, IS_SPARSE
from .._threads import thread_counts
from .._tir import Expr, Kernel, ceil_div
from .packed import FEW_ROWS

TABLES = {16: (2, "llvm.x86.avx512.vpermi2var.ps.512"), 8: (1, "llvm.x86.avx2.permps")}
"""By lanes: registers of a table, and the instruction that looks up a vector of its elements."""

REST = 0.12
"""Share of an output channel's pieces that may have more weights than there are steps."""

STEPS_PER_SECOND = 2e9
"""Vectors of weights that one thread multiplies, to decide whether a layer is too small for threads."""


@dataclass(frozen=True)
class Cut:
    """How the weights are stored: `steps` for each piece of an output channel in vectors, the others one by one.

    Args:
        sizes: The product.
        lanes: Elements of a vector.
        vectors: Vectors of output channels in a block.
        steps: Weights of an output channel that a piece holds.
        weights: Largest number of weights that are not zero.
    """

    sizes: Sizes
    lanes: int
    vectors: int
    steps: int
    weights: int

    @staticmethod
    def of(workload: Workload, variant: Variant) -> Cut:
        """The cut of a variant."""
        weights = most_weights(workload.weight_types["weight"].shape, workload.attributes.density)
        return Cut(Sizes.of_dense(workload), variant["lanes"], variant["vectors"], variant["steps"], weights)

    @property
    def piece(self) -> int:
        """Input channels of a piece: as many as a table has elements."""
        return TABLES[self.lanes][0] * self.lanes

    @property
    def pieces(self) -> int:
        """Pieces of an output channel."""
        return ceil_div(self.sizes.depth, self.piece)

    @property
    def width(self) -> int:
        """Output channels of a block."""
        return self.vectors * self.lanes

    @property
    def blocks(self) -> int:
        """Blocks of output channels."""
        return ceil_div(self.sizes.columns, self.width)

    @property
    def rest(self) -> int:
        """Most weights that pieces do not hold: those have as many channels as a table, of which `steps` fit."""
        return max(1, self.weights * (self.piece - self.steps) // self.piece)

    def pack(self, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        """Values and places in the table, [block][piece][step][column]; the rest; where each block's rest begins.

        The rest comes as values, and places as ``channel * width + column``, in the order of channels: neighbours
        rarely add to the same output.
        """
        padded = pad_axis(pad_axis(weight, 0, self.width), 1, self.piece)
        split = padded.reshape(self.blocks, self.width, self.pieces, self.piece)
        block, column, piece, place = np.nonzero(split)
        number = (np.cumsum(split != 0, axis=3, dtype=np.int32) - 1)[block, column, piece, place]
        found = split[block, column, piece, place]
        values = np.zeros((self.blocks, self.pieces, self.steps, self.width), "float32")
        places = np.zeros(values.shape, "int8")
        fits = number < self.steps
        target = tuple(axis[fits] for axis in (block, piece, number, column))
        values[target], places[target] = found[fits], place[fits]
        order = np.lexsort((column[~fits], piece[~fits], block[~fits]))
        block, column, piece, place, found = (a[~fits][order] for a in (block, column, piece, place, found))
        rest, at = np.zeros(self.rest, "float32"), np.zeros(self.rest, "int32")
        rest[: found.size] = found
        at[: found.size] = (piece * self.piece + place) * self.width + column
        begins = np.searchsorted(block, np.arange(self.blocks + 1)).astype("int32")
        return values.ravel(), places.ravel(), rest, at, begins


def enough_steps(density: float, piece: int) -> int:
    """Steps that hold the weights of most pieces, if they are spread at random: a quantile of their number."""
    share = [comb(piece, n) * density**n * (1 - density) ** (piece - n) for n in range(piece + 1)]
    return next(n for n in range(1, piece + 1) if sum(share[n + 1 :]) <= REST)


class SparseVector(Routine):
    """Streams only the weights that are not zero; a vector holds weights of neighbouring output channels.

    Input channels are cut into pieces as long as one or two registers, which serve as a table: each lane looks up the
    channel that its weight belongs to. A piece has room for a fixed number of weights of each output channel, `steps`,
    so that the code needs no branches; the few weights that do not fit are added one by one. Parallel over blocks of
    output channels.

    Shapes: x [..., C] of up to 4 rows; weight [K, C]; y [..., K]; canonical layouts.
    Error: that of summing C products in float32.
    Source: Kreutzer, Hager, Wellein, Fehske and Bishop, A Unified Sparse Matrix Data Format for Efficient General
    Sparse Matrix-Vector Multiplication on Modern Processors with Wide SIMD Units, SIAM Journal on Scientific Computing
    2014, for vectors across rows; the tables replace its gathers.
    """

    kind = "dense"
    source = "Kreutzer et al., A Unified Sparse Matrix Data Format, SIAM Journal on Scientific Computing 2014"
    requirements = (
        IS_SPARSE,
        Requirement("float32", lambda w, d: w.inputs[0].dtype == "float32"),
        Requirement(f"at most {FEW_ROWS} rows", lambda w, d: prod(w.inputs[0].shape[:-1]) <= FEW_ROWS),
        Requirement("registers that serve as tables (AVX2, AVX-512)", lambda w, d: d.fma and d.vector_lanes in TABLES),
    )

    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """One, and for small layers one without threads."""
        lanes, registers = device.vector_lanes, TABLES[device.vector_lanes][0]
        sizes, density = Sizes.of_dense(workload), workload.attributes.density
        steps = enough_steps(density, registers * lanes)
        fitting = (n for n in (4, 2, 1) if sizes.rows * (n + registers) + 2 <= device.vector_registers)
        vectors = min(next(fitting), ceil_div(sizes.columns, lanes))
        number = steps * ceil_div(sizes.depth, registers * lanes) * ceil_div(sizes.columns, lanes)
        ports = tuple(canonical_format(tensor) for tensor in workload.inputs)
        for threads in thread_counts(device, number / STEPS_PER_SECOND):
            params = (("lanes", lanes), ("vectors", vectors), ("steps", steps), ("threads", threads))
            yield Variant(params, ports, (canonical_format(workload.outputs[0]),))

    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Summation of C products in float32."""
        return ERROR_BOUND

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """For each thread a copy of x with zeros behind each row, if tables do not divide it."""
        cut = Cut.of(workload, variant)
        padded = cut.pieces * cut.piece
        return 4 * int(variant["threads"]) * cut.sizes.rows * padded if padded != cut.sizes.depth else 0

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights that are not zero, and where they belong; bias; slope."""
        cut = Cut.of(workload, variant)
        return *cut.pack(weights["weight"]), *pack_channel_vectors(workload, weights, cut.width)

    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel: x, [residual], values, places, rest, at, begins, bias, [slope], y."""
        return _Writer(workload, variant).function()


class _Writer:
    """Writes one kernel."""

    def __init__(self, workload: Workload, variant: Variant) -> None:
        self.k, self.cut, self.epilogue = Kernel(), Cut.of(workload, variant), Epilogue.of(workload)
        self.parallel = variant["threads"] > 1
        self.buffers: dict[str, Any] = {}

    def function(self) -> Any:
        """The PrimFunc."""
        k, c, rows, columns = self.k, self.cut, self.cut.sizes.rows, self.cut.sizes.columns
        stored, channels = (c.blocks * c.pieces * c.steps * c.width,), (c.blocks * c.width,)
        shapes: dict[str, tuple[int, ...]] = {"x": (rows, c.sizes.depth)}
        shapes |= {"residual": (rows, columns)} if self.epilogue.residual else {}
        shapes |= {"values": stored, "places": stored, "rest": (c.rest,), "at": (c.rest,), "begins": (c.blocks + 1,)}
        shapes |= {"bias": channels} | ({"slope": channels} if self.epilogue.is_prelu else {})
        shapes["y"] = (rows, columns)
        types = {"places": "int8", "at": "int32", "begins": "int32"}
        with k:
            declared = {n: T.arg(n, T.buffer(shape, types.get(n, "float32"))) for n, shape in shapes.items()}
            for n, buffer in declared.items():
                self.buffers[n] = T.decl_buffer((prod(shapes[n]),), types.get(n, "float32"), data=buffer.data)
            with k.loop(c.blocks, self.parallel and c.blocks > 1) as block:
                self._block(block)
        return k.function

    def _block(self, block: Expr) -> None:
        """The output channels of one block."""
        k, c = self.k, self.cut
        x, stride = self._data()
        found = k.stack(c.sizes.rows * c.width)
        self._sum(x, stride, block, found)
        begin = k.bind(self.buffers["begins"][block])
        with k.loop(self.buffers["begins"][block + 1] - begin) as n:
            value, at = k.bind(self.buffers["rest"][begin + n]), k.bind(self.buffers["at"][begin + n])
            for row in range(c.sizes.rows):
                place = row * c.width + at % c.width
                k.store(found, place, found[place] + value * x[row * stride + at // c.width], 1)
        full, partial = divmod(c.sizes.columns, c.lanes)
        with k.loop(c.sizes.rows) as row:
            for j in range(c.vectors):
                vector = k.bind(block * c.vectors + j)
                always = (c.blocks - 1) * c.vectors + j < full
                k.when(always or vector < full, lambda: self._put(found, row, j, vector, [(0, c.lanes)]))  # noqa: B023
                if partial and full % c.vectors == j:
                    cut = pieces(partial, c.lanes)
                    k.when(vector == full, lambda: self._put(found, row, j, vector, cut))  # noqa: B023

    def _data(self) -> tuple[Any, int]:
        """x, or a copy with zeros behind each row; and the elements from one row to the next."""
        k, depth, padded = self.k, self.cut.sizes.depth, self.cut.pieces * self.cut.piece
        if padded == depth:
            return self.buffers["x"], depth
        copy = k.scratch(self.cut.sizes.rows * padded)
        with k.loop(self.cut.sizes.rows) as row:
            with k.loop(depth) as c:
                k.store(copy, row * padded + c, self.buffers["x"][row * depth + c], 1)
            for c in range(depth, padded):
                k.store(copy, row * padded + c, k.splat(0.0, 1), 1)
        return copy, padded

    def _sum(self, x: Any, stride: int, block: Expr, found: Any) -> None:
        """Sums what the pieces hold."""
        k, c, lanes = self.k, self.cut, self.cut.lanes
        registers, instruction = TABLES[lanes]
        sums = [[k.scratch(lanes) for _ in range(c.vectors)] for _ in range(c.sizes.rows)]
        for total in (total for row in sums for total in row):
            k.store(total, 0, k.splat(0.0, lanes), lanes)
        with k.loop(c.pieces) as piece:
            start = k.bind((block * c.pieces + piece) * (c.steps * c.width))
            places = [
                [row * stride + piece * c.piece + i * lanes for i in range(registers)] for row in range(c.sizes.rows)
            ]
            tables = [[k.bind(k.load(x, at, lanes)) for at in row] for row in places]
            for step in range(c.steps):
                for j in range(c.vectors):
                    at = start + (step * c.vectors + j) * lanes
                    value = k.bind(k.load(self.buffers["values"], at, lanes))
                    index = k.bind(T.Cast(f"int32x{lanes}", k.load(self.buffers["places"], at, lanes)))
                    for table, row in zip(tables, sums, strict=True):
                        operands = (table[0], index, *table[1:])
                        other = T.call_llvm_pure_intrin(f"float32x{lanes}", instruction, *operands)
                        k.store(row[j], 0, k.load(row[j], 0, lanes) + value * other, lanes)
        for i, row in enumerate(sums):
            for j, total in enumerate(row):
                k.store(found, i * c.width + j * lanes, k.load(total, 0, lanes), lanes)

    def _put(self, found: Any, row: Expr, j: int, vector: Expr, cut: list[tuple[int, int]]) -> None:
        """Epilogue of the parts (lane, number of lanes) of a vector."""
        k, c, buffers = self.k, self.cut, self.buffers
        for lane, size in cut:
            channel = k.bind(vector * c.lanes + lane)
            at = k.bind(row * c.sizes.columns + channel)
            result = self.epilogue.finish(
                k.load(found, row * c.width + j * c.lanes + lane, size) + k.load(buffers["bias"], channel, size),
                size,
                lambda: k.load(buffers["residual"], at, size),  # noqa: B023
                lambda: k.load(buffers["slope"], channel, size),  # noqa: B023
            )
            k.store(buffers["y"], at, result, size)
