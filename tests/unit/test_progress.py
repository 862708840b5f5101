"""What is shown while tuning proceeds."""

from __future__ import annotations

import math

from softneuro_tvm.cli.progress import ProgressBar
from softneuro_tvm.measurement import Measurement
from tests.support import faulty_routines as faulty


def test_what_the_first_plan_needs_is_counted() -> None:
    (candidate,), bar = faulty.candidates(faulty.Plain), ProgressBar(silent=True)
    bar.started(10, 0)
    bar.round(3, 10, math.inf, 0.0)
    assert bar.plan == "no plan yet"
    for plan in ("no plan yet, 2 more for the first one", *["no plan yet, 1 more for the first one"] * 2):
        bar.measured(candidate, Measurement("ok", (1e-3,)))
        assert bar.plan == plan
    bar.round(4, 7, 2e-3, 1e-3)
    best = bar.plan
    bar.measured(candidate, Measurement("error", message="no kernel today"))
    assert best.startswith("best 2.000 ms") and bar.plan == best
    bar.round(5, 7, math.inf, 0.0)  # for another number of threads
    bar.measured(candidate, Measurement("ok", (1e-3,)))
    assert bar.plan == best and bar.counts["measured"] == 5 and len(bar.failures) == 1
