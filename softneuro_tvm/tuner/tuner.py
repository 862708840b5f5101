"""Measures what could change the plan, the most promising first, until nothing unmeasured could.

Candidates that nobody timed are priced by a cost model. The plan that is best at their lower bounds shows what must be
measured: as soon as it consists of timed candidates only, no other plan is faster unless a bound is wrong. Further
candidates of a round come from plans that are best at prices drawn from the predictions, so that a candidate is
measured the sooner the more likely it belongs to the best plan (Thompson sampling).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.device import available_cores
from softneuro_tvm.errors import ProfileError, SelectionError
from softneuro_tvm.graph import Workload
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler import Profiler
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection.solver import least_cost, solve
from softneuro_tvm.tuner.conclusion import Conclusion, Conclusions, Stopped
from softneuro_tvm.tuner.network import Network, Price
from softneuro_tvm.tuner.prediction import Predicted, Predictor, drawn_s
from softneuro_tvm.tuner.settle import contested

_DRIFT = 0.025
"""A plan may have become slower by this share since a search ended, before it is searched for again."""


@dataclass(frozen=True)
class TunerOptions:
    """How far to go.

    Args:
        gap: Plans that could be faster by less than this share are not pursued.
        gain: Measuring ends when knowing everything would make the plan faster by less than this share, on average
            over what the cost model thinks possible; 0 to measure until that is proved.
        round_candidates: Candidates to measure between two looks at the plan, for each core.
        draws: Plans at drawn prices that a round looks at, at most.
        confidence: Standard errors by which a choice must be better than its alternatives.
        repeats: Processes that measure a contested candidate, at most.
        exhaustive: Measures every candidate first.
        locked: Fails instead of measuring anything.
    """

    gap: float = 0.005
    gain: float = 0.01
    round_candidates: int = 12
    draws: int = 12
    confidence: float = 1.96
    repeats: int = 3
    exhaustive: bool = False
    locked: bool = False


@dataclass(frozen=True)
class Tuning:
    """How tuning went.

    Args:
        candidates: That there were.
        known: In the store before.
        measured: Now; candidates that were measured again count again.
        skipped: Candidates that were never measured.
        rounds: Of measuring.
        seconds: That it took.
        stopped: Why it ended.
        best_s: Predicted time of the best plan of timed candidates.
        bound_s: No plan is faster than this, by the cost model's lower bounds; 0 if the model was not asked. If all
            are slower than one known from elsewhere: what the best one was expected to take.
        bounds: Seconds that candidates without a measurement take at least, as far as the cost model was asked.
    """

    candidates: int
    known: int
    measured: int
    skipped: int
    rounds: int
    seconds: float
    stopped: Stopped
    best_s: float
    bound_s: float
    bounds: Mapping[Candidate, float] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Any]:
        """What goes into a plan: all that does not differ between a run and its repetition from the store."""
        measured = self.candidates - self.skipped
        return {
            "candidates": self.candidates,
            "measured": measured,
            "skipped": self.skipped,
            "stopped": self.stopped,
        }


@dataclass(eq=False)
class Tuner:
    """One run of active measuring.

    Args:
        network: What to tune; changed where all candidates of a layer fail: last resorts are added then.
        profiler: Measures; its results are what the selection reads afterwards.
        make_model: Makes the cost model; called when something must be predicted for the first time.
        deadline_s: By `time.monotonic`: no measurement is begun afterwards, once there is a plan.
        options: How far to go.
        limit_s: Seconds of a plan that is known from elsewhere: slower ones are not looked for.
        conclusions: Remembers how the search ended; then nothing is measured again.
    """

    network: Network
    profiler: Profiler
    make_model: Callable[[], Predictor]
    deadline_s: float = math.inf
    options: TunerOptions = field(default_factory=TunerOptions)
    limit_s: float = math.inf
    conclusions: Conclusions | None = None
    best_s: float = math.inf
    bound_s: float = 0.0
    rounds: int = 0
    _model: Predictor | None = None
    _predictions: dict[Candidate, Predicted] | None = None
    _unlearnt: dict[Candidate, None] = field(default_factory=dict)
    _bounds: dict[Candidate, float] = field(default_factory=dict)

    def run(self) -> Tuning:
        """Measures until the plan cannot change, or the time is over, or the user interrupts.

        Raises:
            SelectionError: a layer for which nothing works.
            ProfileError: measuring cannot go on.
            KeyboardInterrupt: by the user, before there was a plan.
        """
        begin, observer = time.monotonic(), self.profiler.observer
        self.profiler.look_up(self.network.candidates.all())
        known = len(self.profiler.results)
        self._unlearnt = dict.fromkeys(self.profiler.results)
        observer.started(len(self.network.candidates.all()), known)
        stopped: Stopped = "interrupted"
        try:
            if self.options.exhaustive and (missing := self._unmeasured()):
                self._measure(missing, self.deadline_s)
            stopped = self._recalled() or self._concluded()
        except KeyboardInterrupt:
            if self._best() == math.inf:
                raise
        observer.finished()
        candidates = self.network.candidates.all()
        return Tuning(
            candidates=len(candidates),
            known=known,
            measured=self.profiler.measured,
            skipped=sum(candidate not in self.profiler.results for candidate in candidates),
            rounds=self.rounds,
            seconds=time.monotonic() - begin,
            stopped=stopped,
            best_s=self.best_s,
            bound_s=self.bound_s if stopped == "slower" else min(self.bound_s, self.best_s),
            bounds=self._unmeasured_bounds(),
        )

    def _recalled(self) -> Stopped | None:
        """How an earlier search ended, if that still holds; None otherwise."""
        known = self.conclusions.recall() if self.conclusions else None
        if known is None:
            return None
        self._bounds = dict(known.bounds)
        if known.stopped == "slower":
            self.bound_s = known.seconds
            return known.stopped if known.seconds > self.limit_s else None
        if self._best() == math.inf:  # where all else failed, there were routines of last resort
            self._missing(lambda c: self._timed(c) if c in self.profiler.results else 0.0)
        # other networks may have measured some of the candidates anew: the plan is what it is, it is not looked for
        return known.stopped if self._best() <= known.seconds * (1 + _DRIFT) else None

    def _concluded(self) -> Stopped:
        """Searches, and remembers how that ended."""
        stopped = self._search()
        if stopped in ("proved", "settled") and not self._settle():
            stopped = "budget"
        if self.conclusions and stopped != "budget":
            seconds = self.bound_s if stopped == "slower" else self.best_s
            self.conclusions.note(Conclusion(stopped, seconds, self._unmeasured_bounds()))
        return stopped

    def _search(self) -> Stopped:
        """Measures until the best plan is known, or the time is over."""
        best_s = self._best()
        while True:
            missing, self.bound_s = self._missing(self._at_lower_bound)
            if not missing or self.bound_s > best_s * (1 - self.options.gap):
                return "proved"
            more, expected_s = self._draw() if min(best_s, self.limit_s) < math.inf else ([], 0.0)
            if expected_s > self.limit_s:
                self.bound_s = expected_s
                return "slower"
            if best_s == math.inf:  # any plan is better than none: the likely one first
                likely, _ = self._missing(self._at_median)
                self._measure(likely or missing)
            else:
                if 0 < self.options.gain and expected_s > best_s * (1 - self.options.gain):
                    return "settled"
                if time.monotonic() > self.deadline_s:
                    return "budget"
                enough = self.options.round_candidates * available_cores()
                self._measure(list(dict.fromkeys([*missing, *more[: max(0, enough - len(missing))]])), self.deadline_s)
            best_s = self._best()

    def _settle(self) -> bool:
        """Measures close decisions again, until they are clear or enough was measured; False if the time is over."""
        while candidates := contested(self.network, self.profiler.results, self.options):
            if time.monotonic() > self.deadline_s:
                return False
            self._measure(candidates, self.deadline_s)
            self._best()
        return True

    def _measure(self, candidates: Sequence[Candidate], deadline_s: float = math.inf) -> None:
        if self.options.locked:
            raise ProfileError(
                f"the plan is not settled: {len(candidates)} candidate(s) would have to be measured, and measuring is "
                "locked; tune without --locked, or build from a plan file"
            )
        self.rounds += 1
        self.profiler.observer.round(len(candidates), self._open(), self.best_s, self.bound_s)
        self.profiler.measure(candidates, deadline_s)
        self._unlearnt |= dict.fromkeys(candidates)
        self._predictions = None

    def _open(self) -> int:
        """Candidates without a measurement that could change the plan."""
        problem = self.network.problem(self._at_lower_bound)
        best_with = self.network.best_with(problem, self._at_lower_bound)
        limit_s = self.best_s * (1 - self.options.gap)
        return sum(plan_s < limit_s for c, plan_s in best_with.items() if c in self.predictions)

    def _unmeasured_bounds(self) -> dict[Candidate, float]:
        """What the cost model said last of candidates that were not measured since."""
        return {c: seconds for c, seconds in self._bounds.items() if c not in self.profiler.results}

    def _unmeasured(self) -> list[Candidate]:
        return [c for c in self.network.candidates.all() if c not in self.profiler.results]

    @property
    def predictions(self) -> Mapping[Candidate, Predicted]:
        """What the cost model, shown all measurements, says of the other candidates."""
        if self._predictions is None:
            self._predictions = self._predict()
            self._bounds = {c: float(f"{p.low_s:.3g}") for c, p in self._predictions.items()}
        return self._predictions

    def _predict(self) -> dict[Candidate, Predicted]:
        if not (unknown := self._unmeasured()):
            return {}
        if self._model is None:
            if not self.options.locked:
                self.profiler.start()
            self._model = self.make_model()
        found = [(c, self.profiler.results.get(c)) for c in self._unlearnt]
        self._model.refine([(c, m.median_s) for c, m in found if m is not None and m.ok and m.median_s > 0])
        self._unlearnt = {}
        return dict(zip(unknown, self._model.predict(unknown), strict=True))

    def _best(self) -> float:
        """Seconds of the best plan of timed candidates; infinite if there is none."""
        try:
            self.best_s = least_cost(self.network.problem(self._timed).pairwise)
        except SelectionError:
            self.best_s = math.inf
        return self.best_s

    def _missing(self, price: Price) -> tuple[list[Candidate], float]:
        """What of the best plan at some prices was not measured, and the plan's seconds."""
        while True:
            try:
                problem = self.network.problem(price)
                solution = solve(problem.pairwise)
                break
            except SelectionError:
                self._add_last_resorts()
        picks = self.network.picks(problem, solution.states, price)
        return [c for c in picks if c not in self.profiler.results], solution.lower_bound

    def _draw(self) -> tuple[list[Candidate], float]:
        """Candidates of plans at drawn prices, those of most plans first, and the mean of the plans' seconds."""
        counts: dict[Candidate, int] = {}
        seconds = []
        for draw in range(self.options.draws):
            generator = np.random.default_rng((len(self.profiler.results), draw))
            normal = dict(zip(self.predictions, generator.standard_normal(len(self.predictions)), strict=True))
            missing, plan_s = self._missing(lambda c, n=normal: self._drawn(c, n))  # type: ignore[misc]
            seconds.append(plan_s)
            for candidate in missing:
                counts[candidate] = counts.get(candidate, 0) + 1
        return sorted(counts, key=lambda c: -counts[c]), float(np.mean(seconds))

    def _add_last_resorts(self) -> None:
        """Adds routines of last resort for workloads all of whose candidates failed.

        Raises:
            SelectionError: there are no such workloads, or nothing is added: no plan exists.
        """
        results = self.profiler.results
        by_workload = self.network.candidates.by_workload

        def failed(workload: Workload) -> bool:
            options = by_workload[workload]
            return bool(options) and all(c in results and not results[c].ok for c in options)

        workloads = [workload for workload in by_workload if failed(workload)]
        before = set(self.network.candidates.all())
        graph, device = self.network.graph, self.profiler.device
        if workloads:
            precision = self.network.candidates.precision
            self.network = self.network.widened(enumerate_candidates(graph, device, workloads, precision))
        if not set(self.network.candidates.all()) - before:
            raise SelectionError(_nothing_works(self.network, results))
        self.profiler.look_up(self.network.candidates.all())
        self._predictions = None

    def _timed(self, candidate: Candidate) -> float:
        found = self.profiler.results.get(candidate)
        return math.inf if found is None else found.median_s

    def _at_lower_bound(self, candidate: Candidate) -> float:
        prediction = self.predictions.get(candidate)
        return self._timed(candidate) if prediction is None else prediction.low_s

    def _at_median(self, candidate: Candidate) -> float:
        prediction = self.predictions.get(candidate)
        return self._timed(candidate) if prediction is None else prediction.median_s

    def _drawn(self, candidate: Candidate, normal: dict[Candidate, float]) -> float:
        prediction = self.predictions.get(candidate)
        return self._timed(candidate) if prediction is None else drawn_s(prediction, normal[candidate])


def _nothing_works(network: Network, results: Mapping[Candidate, Measurement]) -> str:
    """Says for which layers nothing works, and why."""
    lines = []
    for layer in network.graph.layers:
        options = network.candidates.by_workload[network.graph.workload(layer)]
        failures = [results[c].message.splitlines()[0] for c in options if c in results and not results[c].ok]
        if len(failures) == len(options):
            lines.append(f"layer {layer.name!r}: every candidate failed ({'; '.join(failures[:3]) or 'there is none'})")
    where = "\n".join(lines) or "no measured adapter connects the formats of the routines that work"
    return f"no combination of routines computes this network; {where}\n`softneuro-tvm tune --json` lists all failures"
