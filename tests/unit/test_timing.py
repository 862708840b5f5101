from __future__ import annotations

import itertools
import math
import time

import pytest

from softneuro_tvm.profiler.timing import TimingOptions, _enough, spread, time_calls

OPTIONS = TimingOptions()


def taken(*groups: tuple[int, float], number: int = 1, best_s: float = math.inf) -> bool:
    """Whether groups (count, seconds) of samples are enough."""
    samples = [value for count, value in groups for _ in range(count)]
    return _enough(samples, number, number * sum(samples), best_s, OPTIONS)


@pytest.mark.parametrize(
    ("groups", "number", "enough"),
    [
        ([], 1, False),
        ([(6, 10e-3)], 1, False),  # fewer than the least
        ([(7, 10e-3)], 1, True),
        ([(7, 10e-6)], 20, False),  # steady, but 1.4 ms in all
        ([(24, 10e-6)], 20, False),
        ([(25, 10e-6)], 20, True),
        ([(4, 0.15)], 1, False),  # slow: five samples
        ([(5, 0.15)], 1, True),
        ([(1, 1.5)], 1, False),  # very slow: two seconds
        ([(2, 1.5)], 1, True),
        ([(7, 200e-6), (1, 50e-3)], 1, False),  # one interruption does not fill the time
        ([(13, 200e-6), (12, 400e-6)], 1, False),  # not steady: more samples
        ([(50, 200e-6), (50, 400e-6)], 1, True),
    ],
)
def test_when_samples_are_enough(groups: list[tuple[int, float]], number: int, enough: bool) -> None:
    assert taken(*groups, number=number) is enough


def test_a_hopeless_candidate_is_given_up_early() -> None:
    assert taken((5, 1e-3), best_s=0.3e-3)
    assert not taken((4, 1e-3), best_s=0.3e-3)
    assert not taken((5, 1e-3), best_s=0.5e-3)
    assert not taken((2, 1e-3), (3, 5e-3), best_s=0.3e-3)  # the machine is busy: no hasty verdict


def test_spread_is_relative_to_the_median() -> None:
    assert spread([1.0]) == 0
    assert spread([2.0, 2.0, 2.0]) == 0
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(0.5)


def test_calls_rotate_over_their_arguments() -> None:
    seen: list[int] = []

    def work(value: int) -> None:
        seen.append(value)
        time.sleep(50e-6)

    samples = time_calls(work, [(0,), (1,), (2,)], lambda value: None, math.inf, TimingOptions(min_sample_s=5e-3))
    assert (len(seen) - 3) % len(samples) == 0  # three calls estimate the length of a sample
    breaks = sum((after - before) % 3 != 1 for before, after in itertools.pairwise(seen[3:]))
    assert breaks == 0 and len(seen) > len(samples)
