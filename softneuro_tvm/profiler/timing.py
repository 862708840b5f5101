"""The timed loop: warm-up, samples of several calls, rotation over argument sets, an early end for slow candidates."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from softneuro_tvm.measurement import spread


@dataclass(frozen=True)
class TimingOptions:
    """When samples are long and many enough.

    Args:
        min_samples: Taken in any case, unless the candidate takes long or is hopeless.
        max_samples: Enough on a quiet machine.
        max_noisy_samples: Enough in any case.
        steady_spread: The machine is quiet if the samples' quartiles are not further apart, relative to their median.
        min_total_s: Fewer than `max_samples` are enough once this much was timed.
        max_total_s: Beyond this much, `fewest_samples` are enough.
        fewest_samples: For candidates that take long.
        min_sample_s: A sample calls the kernel as often as this takes.
        abandon_after: Samples after which a hopeless candidate is given up.
        abandon_ratio: Hopeless means so many times slower than the best candidate of the same formats.
        patience_s: So long the machine may be slower than usual before its samples are taken as they are.
        total_patience_s: The same for all candidates together: a machine that is always slow is measured as it is.
        timeout_s: A candidate that has not finished by then is killed.
        compile_timeout_s: The same for compiling it.
    """

    min_samples: int = 7
    max_samples: int = 25
    max_noisy_samples: int = 100
    steady_spread: float = 0.1
    min_total_s: float = 0.03
    max_total_s: float = 0.4
    fewest_samples: int = 5
    min_sample_s: float = 200e-6
    abandon_after: int = 5
    abandon_ratio: float = 3.0
    patience_s: float = 2.0
    total_patience_s: float = 10.0
    timeout_s: float = 20.0
    compile_timeout_s: float = 120.0


def _once(function: Callable[..., Any], arguments: itertools.cycle[tuple[Any, ...]], number: int) -> float:
    """Seconds of `number` calls."""
    begin = time.perf_counter_ns()
    for values in itertools.islice(arguments, number):
        function(*values)
    return (time.perf_counter_ns() - begin) * 1e-9


def _enough(samples_s: Sequence[float], number: int, total_s: float, best_s: float, options: TimingOptions) -> bool:
    count, steady = len(samples_s), spread(samples_s) <= options.steady_spread
    if count >= options.abandon_after and steady and min(samples_s) > options.abandon_ratio * best_s:
        return True
    if total_s >= options.max_total_s * (1 if count >= options.fewest_samples else 5):
        return True
    if count < options.min_samples or not steady:
        return count >= options.max_noisy_samples
    undisturbed_s = count * number * statistics.median(samples_s)  # one interrupted sample must not fill the time
    return count >= options.max_samples or undisturbed_s >= options.min_total_s


def time_calls(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    empty: Callable[..., Any],
    best_s: float,
    options: TimingOptions,
) -> tuple[float, ...]:
    """Times a kernel.

    Args:
        function: The kernel, already called once.
        arguments: Argument sets; each call takes the next one.
        empty: A function called the same way that does nothing: what it costs is subtracted.
        best_s: Median of the best candidate so far; infinite if there is none.
        options: When to stop.

    Returns:
        Seconds of one call in each sample.
    """
    rotation = itertools.cycle(arguments)
    estimate_s = _once(function, rotation, 1)
    if estimate_s < options.max_total_s:
        estimate_s = min(_once(function, rotation, 1) for _ in range(2))
    number = min(10_000, max(1, math.ceil(options.min_sample_s / max(estimate_s, 1e-9))))
    overhead_s = statistics.median(_once(empty, rotation, number) for _ in range(5)) / number
    samples: list[float] = []
    total_s = 0.0
    while not _enough(samples, number, total_s, best_s, options):
        elapsed_s = _once(function, rotation, number)
        total_s += elapsed_s
        samples.append(max(1e-9, elapsed_s / number - overhead_s))
    return tuple(samples)


_BLOCK = 5
"""Samples that are taken elsewhere at once: asking for each of them would take longer than a short one."""


def time_blocks(
    evaluate: Callable[[int, int], Sequence[float]], best_s: float, options: TimingOptions
) -> tuple[float, ...]:
    """Times a kernel that runs elsewhere, as `time_calls` does one that runs here.

    Args:
        evaluate: Seconds of a call in each of so many samples (second argument) that each average so many calls (first
            argument).
        best_s: Median of the best candidate so far; infinite if there is none.
        options: When to stop.

    Returns:
        Seconds of one call in each sample.
    """
    estimate_s = max(1e-9, evaluate(1, 1)[0])
    if estimate_s < options.max_total_s:
        estimate_s = max(1e-9, min(evaluate(1, 2)))
    number = min(10_000, max(1, math.ceil(options.min_sample_s / estimate_s)))
    block = 1 if estimate_s > options.max_total_s / _BLOCK else _BLOCK
    samples: list[float] = []
    total_s = 0.0
    while not _enough(samples, number, total_s, best_s, options):
        taken = [max(1e-9, seconds) for seconds in evaluate(number, block)]
        samples += taken
        total_s += number * sum(taken)
    return tuple(samples)
