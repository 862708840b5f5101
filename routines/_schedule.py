"""A schedule for any PrimFunc made of loop nests: for layers that no hand-written routine computes.

Inlines what costs nothing to recompute, fuses a reduction with the elementwise stage that reads it, keeps its
accumulators in a vector, spreads the outer loops over the threads. Every step is a transaction: one that TVM refuses
for a shape is left out, and a function that does not lower after all is returned as it came.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.tirx.analysis import undefined_vars

from softneuro_tvm.device import Device

logger = logging.getLogger(__name__)

PARALLEL_WORK = 1 << 14
"""Loop iterations below which starting threads (about 5 microseconds) costs more than it saves."""

TURNS = 4
"""Iterations for each thread that are enough to share the work evenly."""

UNROLLED = 32
"""Length of a reduction that the code generator unrolls by itself, so that it may stay innermost."""

_SCALAR = {"prim.if_then_else", "tirx.sinh", "tirx.cosh"}
"""Calls that the code generator takes apart, or refuses, in a vector."""

_REDUCTION = 2
"""`IterVar.iter_type` of a reduction axis."""


def _extent(schedule: Any, loop: Any) -> int:
    return int(schedule.get(loop).extent)


def _block(schedule: Any, name: str) -> Any:
    return schedule.get(schedule.get_sblock(name))


def _work(schedule: Any, name: str) -> int:
    """Iterations of a block."""
    return math.prod(_extent(schedule, loop) for loop in schedule.get_loops(schedule.get_sblock(name)))


def _names(schedule: Any) -> list[str]:
    """Names of the blocks in order of execution."""
    return [str(schedule.get(block).name_hint) for block in schedule.get_child_blocks(schedule.get_sblock("root"))]


def _reduces(schedule: Any, name: str) -> bool:
    return any(int(var.iter_type) == _REDUCTION for var in _block(schedule, name).iter_vars)


def _calls(expression: Any) -> Iterator[str]:
    """Names of the functions that an expression calls."""
    if isinstance(expression, tvm.ir.Call):
        yield str(expression.op.name)
    for child in getattr(expression, "args", ()):
        yield from _calls(child)
    for field in ("a", "b", "value", "condition", "true_value", "false_value"):
        if (child := getattr(expression, field, None)) is not None:
            yield from _calls(child)


def _is_cheap(schedule: Any, name: str) -> bool:
    """True if a block only moves elements and does plain arithmetic."""
    body = _block(schedule, name).body
    return isinstance(body, tirx.BufferStore) and set(_calls(body.value)) <= {"prim.if_then_else"}


def _vectorises(block: Any) -> bool:
    """True if neighbours of a block can be computed as one vector."""
    return isinstance(block.body, tirx.BufferStore) and _SCALAR.isdisjoint(_calls(block.body.value))


def _attempt(schedule: Any, what: str, step: Callable[[Any], None]) -> Any:
    """The schedule after a step, or as it was if TVM refuses the step."""
    trial = schedule.copy()
    try:
        step(trial)
    except (s_tir.ScheduleError, tvm.error.InternalError, ValueError, TypeError) as error:
        logger.debug("%s is left out: %s", what, error)
        return schedule
    return trial


def _inline(schedule: Any) -> Any:
    """Inlines stages whose recomputation is free: cheap ones into elementwise readers, others where read once."""
    for name in _names(schedule):
        consumers = schedule.get_consumers(schedule.get_sblock(name))
        if not consumers or _reduces(schedule, name):
            continue
        readers = [str(schedule.get(consumer).name_hint) for consumer in consumers]
        once = sum(_work(schedule, reader) for reader in readers) <= _work(schedule, name)
        elementwise = not any(_reduces(schedule, reader) for reader in readers)
        if once or (elementwise and _is_cheap(schedule, name)):

            def step(trial: Any, name: str = name) -> None:
                trial.compute_inline(trial.get_sblock(name))

            schedule = _attempt(schedule, f"inlining {name}", step)
    return schedule


def vector_length(extent: int, lanes: int) -> int:
    """How many of `extent` neighbours to compute as one vector: its largest divisor up to two registers; 1 if small."""
    best = max(divisor for divisor in range(1, min(extent, 2 * lanes) + 1) if extent % divisor == 0)
    whole = [divisor for divisor in (2 * lanes, lanes) if extent % divisor == 0]
    length = whole[-1] if whole else best
    return length if length >= min(4, lanes) else 1


def _is_contiguous(block: Any) -> bool:
    """True if every element depends on the elements at its own position only."""
    own = [axis.var for axis in block.iter_vars]
    return all(
        len(read.region) == len(own)
        and all(part.min.same_as(var) for part, var in zip(read.region, own, strict=True))
        and list(read.source.shape) == list(block.writes[0].source.shape)
        for read in block.reads
    )


def _reads_far_apart(block: Any, axis: Any) -> bool:
    """True if neighbours along an axis of a block are read from far apart."""
    regions = [list(read.region)[:-1] for read in block.reads]
    return any(axis.var.same_as(var) for region in regions for part in region for var in undefined_vars(part.min))


def _steps(block: Any, axis: Any) -> list[int]:
    """How far apart neighbours along an axis are in the last dimension of each tensor read; 2 where it is unclear."""
    lasts = [list(read.region)[-1].min for read in block.reads if len(read.region)]
    found = [tvm.sym.detect_linear_equation(last, [axis.var]) for last in lasts]
    return [int(terms[0]) if terms and isinstance(terms[0], tirx.IntImm) else 2 for terms in found]


def _spread(schedule: Any, loops: Sequence[Any], threads: int) -> list[Any]:
    """Spreads the leading ones of nested loops over the threads; returns the loops there are now.

    No more of them are fused than give every thread several turns, because fused indices are taken apart by division.
    """
    if threads == 1:
        return list(loops)
    count, turns = 0, 1
    while count < len(loops) and turns < TURNS * threads:
        turns *= _extent(schedule, loops[count])
        count += 1
    fused = schedule.fuse(*loops[:count]) if count > 1 else loops[0]
    schedule.parallel(fused)
    return [fused, *loops[count:]]


def _elementwise(schedule: Any, name: str, threads: int, lanes: int) -> None:
    """Outer loops fused and spread, innermost loop in vectors where the code generator can."""
    block, loops = _block(schedule, name), schedule.get_loops(schedule.get_sblock(name))
    if not loops:
        return
    if len(loops) > 1 and _is_contiguous(block):
        loops = [schedule.fuse(*loops)]
    length = vector_length(_extent(schedule, loops[-1]), lanes) if _vectorises(block) else 1
    if length > 1:
        outer, inner = schedule.split(loops[-1], [None, length])
        schedule.vectorize(inner)
        loops = [*loops[:-1], outer]
    elif len(loops) > 1:
        loops = loops[:-1]
    _spread(schedule, loops, threads)


def _partial_sums(schedule: Any, name: str, outer: Sequence[Any], reduced: Sequence[Any], lanes: int) -> None:
    """Splits the innermost reduced loop over the lanes of a vector, one partial result each.

    Args:
        schedule: Changed in place.
        name: A reduction.
        outer: Its spatial loops.
        reduced: Its reduced loops.
        lanes: Elements of a vector.
    """
    length = vector_length(_extent(schedule, reduced[-1]), lanes)
    if length == 1:
        schedule.decompose_reduction(schedule.get_sblock(name), reduced[0])
        return
    _, lane = schedule.split(reduced[-1], [None, length])
    rank = len(_block(schedule, name).writes[0].source.shape)
    partial = schedule.rfactor(lane, rank)
    if outer:
        schedule.compute_at(partial, outer[-1], preserve_unit_loops=True)
        lane, *rest = schedule.get_loops(partial)[len(outer) :]  # in the order of the axes now, the lane's first
        schedule.reorder(*rest, lane)
        rest = rest[rank:]
    else:
        *rest, lane = schedule.get_loops(partial)
        rest = rest[-len(reduced) :]
    schedule.vectorize(lane)
    schedule.decompose_reduction(partial, rest[0])
    total = schedule.get_sblock(name)
    schedule.decompose_reduction(total, schedule.get_loops(total)[-1])


def _reduction(schedule: Any, name: str, reader: str | None, threads: int, lanes: int) -> None:
    """Accumulates a vector of outputs, or where these are read from far apart one output in a vector of partial sums.

    Args:
        schedule: Changed in place.
        name: A reduction.
        reader: The elementwise stage that alone reads it and has its shape; computed with it.
        threads: Threads to spread the outer loops over.
        lanes: Elements of a vector.

    Raises:
        ValueError: loops and axes of the block do not correspond one to one.
    """
    block, loops = _block(schedule, name), schedule.get_loops(schedule.get_sblock(name))
    pairs = list(zip(loops, block.iter_vars, strict=True))
    spatial = [(loop, axis) for loop, axis in pairs if int(axis.iter_type) != _REDUCTION]
    reduced = [loop for loop, axis in pairs if int(axis.iter_type) == _REDUCTION]
    wide = [index for index, (loop, _) in enumerate(spatial) if _extent(schedule, loop) > 1]
    outer = [loop for loop, _ in spatial]
    length = 1
    if wide and not _reads_far_apart(block, spatial[wide[-1]][1]):
        inner = outer[wide[-1]]
        outer = outer[: wide[-1]]
        if all(step in (0, 1) for step in _steps(block, spatial[wide[-1]][1])):
            length = vector_length(_extent(schedule, inner), lanes)
        if length > 1:
            first, inner = schedule.split(inner, [None, length])
            outer = [*outer, first]
        if length > 1 or math.prod(_extent(schedule, loop) for loop in reduced) > UNROLLED:
            schedule.reorder(*outer, *reduced, inner)
        if length > 1:
            schedule.vectorize(inner)
        outer = _spread(schedule, outer, threads) if outer else []
        schedule.decompose_reduction(schedule.get_sblock(name), reduced[0])
    else:
        outer = _spread(schedule, outer, threads) if outer else []
        _partial_sums(schedule, name, outer, reduced, lanes)
    if outer and reader is not None:
        schedule.reverse_compute_at(schedule.get_sblock(reader), outer[-1])
        if length > 1 and _vectorises(_block(schedule, reader)):
            schedule.vectorize(schedule.get_loops(schedule.get_sblock(reader))[-1])


def _reader(schedule: Any, name: str) -> str | None:
    """The only stage that reads a reduction, if it is elementwise and of the same shape."""
    consumers = schedule.get_consumers(schedule.get_sblock(name))
    if len(consumers) != 1 or _reduces(schedule, reader := str(schedule.get(consumers[0]).name_hint)):
        return None
    shapes = [list(_block(schedule, stage).writes[0].source.shape) for stage in (name, reader)]
    return reader if shapes[0] == shapes[1] else None


def _lowers(function: Any, target: Any) -> bool:
    """True if TVM's passes take the function all the way to the code generator."""
    pipeline, finalise, _ = s_tir.pipeline.default_s_tir_pipeline()
    try:
        bound = tirx.transform.BindTarget(target.with_host(target))
        finalise()(pipeline(bound(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))))
    except (tvm.error.InternalError, ValueError, TypeError) as error:
        logger.debug("the schedule does not lower: %s", error)
        return False
    return True


def _schedule_stage(schedule: Any, name: str, device: Device) -> tuple[Any, set[str]]:
    """Schedules one stage; returns the schedule and the stages that it covers."""
    threads = device.threads if _work(schedule, name) >= PARALLEL_WORK else 1
    lanes = device.vector_lanes
    if not _reduces(schedule, name):
        return _attempt(schedule, f"stage {name}", lambda trial: _elementwise(trial, name, threads, lanes)), {name}
    for reader in dict.fromkeys((_reader(schedule, name), None)):

        def step(trial: Any, reader: str | None = reader) -> None:
            _reduction(trial, name, reader, threads, lanes)

        if (trial := _attempt(schedule, f"stage {name}", step)) is not schedule:
            return trial, {name} if reader is None else {name, reader}
    return schedule, {name}


def schedule_loops(function: Any, device: Device) -> Any:
    """Schedules a PrimFunc of plain loop nests for a CPU.

    Args:
        function: What `te.create_prim_func` or `LegalizeOps` makes.
        device: Threads and vector length.

    Returns:
        An equivalent PrimFunc; the function itself if it is not made of plain loop nests of known extents.
    """
    try:
        schedule = _inline(s_tir.Schedule(function))
        done: set[str] = set()
        for name in _names(schedule):
            if name not in done:
                schedule, covered = _schedule_stage(schedule, name, device)
                done |= covered
    except (s_tir.ScheduleError, tvm.error.InternalError, ValueError, TypeError) as error:
        logger.debug("the function is not scheduled: %s", error)
        return function
    scheduled = schedule.mod["main"].with_attrs(dict(function.attrs.items()))
    return scheduled if _lowers(scheduled, tvm.target.Target(dict(device.target))) else function
