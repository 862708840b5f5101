"""How long each kernel of a built network takes within the network.

A library keeps count itself: its host functions call `MARK_FUNCTION` after each kernel, which returns at once (within
some 1 ns) unless it was asked to look at the clock. So what is looked at is what is deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softneuro_tvm.errors import BuildError

MARK_FUNCTION = "softneuro_mark"
"""C function of a library, ``int softneuro_mark(int step)``: a step has ended; -1: a sequence of steps begins."""
TIMES_FUNCTION = "softneuro_times"
"""Function of a library for TVM: takes float64 [steps], or [1] if there are none, and whether to look at the clock.

Writes the seconds that each step took since the last call.
"""
_COLLECT_FUNCTION = "softneuro_collect"

_SOURCE = """
#include <time.h>

static double spent[{steps}];
static int looking;
static double last;

static double now(void) {{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + 1e-9 * at.tv_nsec;
}}

__attribute__((visibility("hidden"))) int {mark}(int step) {{
    if (__builtin_expect(!looking, 1)) return 0;
    double at = now();
    if (step >= 0) spent[step] += at - last;
    last = now();
    return 0;
}}

__attribute__((visibility("hidden"))) int {collect}(double *seconds, int look) {{
    looking = look;
    for (int step = 0; step < {steps}; step++) {{
        seconds[step] = spent[step];
        spent[step] = 0;
    }}
    return 0;
}}
"""


@dataclass(frozen=True)
class Step:
    """A kernel call of a built network.

    Args:
        name: Of the layer; of the tensor that is converted, where it is an adapter.
        routine: What computes it.
        expected_s: Measured by itself; None for a part of a layer, as fall-through layers have them.
    """

    name: str
    routine: str
    expected_s: float | None = None


@dataclass(frozen=True)
class StepTime:
    """How long a step took.

    Args:
        step: Which one.
        seconds: Median over runs.
    """

    step: Step
    seconds: float


def source(steps: int) -> str:
    """C source of the functions that keep count of so many steps."""
    return _SOURCE.format(steps=max(1, steps), mark=MARK_FUNCTION, collect=_COLLECT_FUNCTION)


def times_function(steps: int) -> Any:
    """`TIMES_FUNCTION` as a `tirx.PrimFunc`."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script.builder import ir as T

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(TIMES_FUNCTION)
            T.func_attr({"global_symbol": TIMES_FUNCTION})
            seconds = T.arg("seconds", T.buffer((max(1, steps),), "float64"))
            look = T.arg("look", T.int32())
            T.evaluate(T.call_extern("int32", _COLLECT_FUNCTION, seconds.data, look))
    return builder.get()


def blank_times(manifest: Mapping[str, Any]) -> np.ndarray:
    """What `TIMES_FUNCTION` writes to, before it does.

    Raises:
        BuildError: the module was built before modules kept count.
    """
    if "steps" not in manifest:
        raise BuildError("this module cannot tell its layers' times: an earlier version built it; build it again")
    return np.zeros(max(1, len(manifest["steps"])))


def time_steps(
    manifest: Mapping[str, Any], collect: Callable[[Any, int], Any], tensor: Any, run: Callable[[], Any], repeat: int
) -> list[StepTime]:
    """Runs a network some times, and tells how long its steps took.

    Args:
        manifest: The network's.
        collect: Its `TIMES_FUNCTION`.
        tensor: float64 [steps], or [1], where the network is.
        run: Runs it once.
        repeat: How often.
    """
    samples = []
    collect(tensor, 1)
    try:
        for _ in range(1 + repeat):
            run()
            collect(tensor, 1)
            samples.append(tensor.numpy())
    finally:
        collect(tensor, 0)
    seconds = np.median(samples[1:], axis=0)
    return [StepTime(Step(**step), float(each)) for step, each in zip(manifest["steps"], seconds, strict=False)]


def by_name(times: Sequence[StepTime]) -> dict[tuple[str, str], StepTime]:
    """Steps by name and routine: those of a fall-through layer have several kernels, which are added up."""
    found: dict[tuple[str, str], StepTime] = {}
    for each in times:
        key = (each.step.name, each.step.routine)
        before = found[key].seconds if key in found else 0.0
        found[key] = StepTime(each.step, before + each.seconds)
    return found
