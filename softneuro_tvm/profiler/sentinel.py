"""A reference kernel that tells how fast the machine is at the moment: fused multiply-adds on registers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softneuro_tvm.device import Device

SENTINEL_STEPS = 20_000
"""Multiply-adds of each chain: some 30 microseconds."""
_RUNS = 5
_SLOW = 1.15
"""The machine counts as slow if the reference kernel takes so many times as long as it usually does."""
_FEWEST = 4
_PAUSE_S = 0.05


def multiply_adds(device: Device, steps: int) -> Any:
    """A kernel of dependent chains x = x * a + b: enough of them to hide the latency, few enough for registers.

    Arguments: a, b (1,) and y (threads, chains * lanes), float32.

    Args:
        device: Its vector unit is kept busy, on as many threads as it is tuned for.
        steps: Multiply-adds of each chain.
    """
    from softneuro_tvm.routines._tir import Kernel

    lanes, chains = device.vector_lanes, chain_count(device)
    with Kernel() as k:
        a, b, y = k.arguments(("a", (1,)), ("b", (1,)), ("y", (device.threads, chains * lanes)))
        with k.loop(device.threads, parallel=device.threads > 1) as thread:
            registers = [k.scratch(lanes) for _ in range(chains)]
            for register in registers:
                k.store(register, 0, k.splat(a[0], lanes), lanes)
            with k.loop(steps):
                for register in registers:
                    value = k.load(register, 0, lanes) * k.splat(a[0], lanes) + k.splat(b[0], lanes)
                    k.store(register, 0, value, lanes)
            for chain, register in enumerate(registers):
                k.store(y, (thread * chains + chain) * lanes, k.load(register, 0, lanes), lanes)
    return k.function


def chain_count(device: Device) -> int:
    """Chains of `multiply_adds`."""
    return device.vector_registers - 6


def sentinel_arguments(device: Device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays for `multiply_adds`; the products stay finite."""
    shape = (device.threads, chain_count(device) * device.vector_lanes)
    return np.full(1, 0.5, np.float32), np.full(1, 0.5, np.float32), np.zeros(shape, np.float32)


@dataclass(frozen=True)
class Sentinel:
    """The compiled reference kernel, and how long it usually takes.

    Args:
        library: Path.
        device: For its arguments.
        usual_s: Seconds of one run on the undisturbed machine; 0 while that is not known.
        patience_s: How long may be waited for a machine that is slower than usual.
    """

    library: str
    device: Device
    usual_s: float = 0.0
    patience_s: float = 0.0


@dataclass
class MachineSpeed:
    """Remembers how long the reference kernel took.

    Args:
        seconds: Of each run.
        lost_s: Seconds spent on waiting for a slow machine.
    """

    seconds: list[float] = field(default_factory=list)
    lost_s: float = 0.0

    @property
    def usual_s(self) -> float:
        """The lower quartile of all runs: what slow phases do not change; 0 while there are too few."""
        if len(self.seconds) < _FEWEST:
            return 0.0
        return statistics.quantiles(self.seconds, n=4)[0]


def is_slow(seconds: float, usual_s: float) -> bool:
    """Whether the reference kernel took so long that nothing should be measured now."""
    return usual_s > 0 and seconds > _SLOW * usual_s


def run_sentinel(function: Callable[..., Any], arguments: Sequence[Any]) -> float:
    """Seconds of one run: the least of a few."""
    times = []
    for _ in range(_RUNS):
        begin = time.perf_counter_ns()
        function(*arguments)
        times.append(time.perf_counter_ns() - begin)
    return min(times) * 1e-9


def steady(
    take: Callable[[], tuple[float, ...]], speed: Callable[[], float], usual_s: float, patience_s: float
) -> tuple[tuple[float, ...], float, float]:
    """Takes samples while the machine is as fast as usual; discards those of slow phases.

    Args:
        take: Takes samples.
        speed: Runs the reference kernel and gives its seconds.
        usual_s: What these usually are; 0 if that is not known.
        patience_s: After so long the samples are kept as they are.

    Returns:
        The samples, the seconds of the reference kernel while they were taken, and those lost by waiting.
    """
    begin = time.monotonic()
    while is_slow(speed(), usual_s) and time.monotonic() < begin + patience_s:
        time.sleep(_PAUSE_S)
    while True:
        lost_s = time.monotonic() - begin
        samples, seconds = take(), speed()
        if not is_slow(seconds, usual_s) or time.monotonic() > begin + patience_s:
            return samples, seconds, lost_s
