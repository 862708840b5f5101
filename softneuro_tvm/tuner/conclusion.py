"""How the search for a network's plan ended, kept in the store: tuning again neither predicts nor measures anything.

Without it, a second run would ask the cost model whether more should be measured; what that has learnt meanwhile from
other networks could change its answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, get_args

from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler import Key, Profiler
from softneuro_tvm.profiler.keys import search_key
from softneuro_tvm.routine import Candidate

Stopped = Literal["proved", "settled", "slower", "budget", "interrupted"]
"""Why measuring ended: nothing unmeasured could change the plan; or is not likely to make it much faster; or no plan is
as fast as one that is known from elsewhere; or no time was left; or the user said so."""


@dataclass(frozen=True)
class Conclusion:
    """How a search ended.

    Args:
        stopped: Why.
        seconds: Of the best plan that was found, or, where all are slower than one known from elsewhere, what the best
            of them was expected to take.
        bounds: Seconds that candidates without a measurement take at least, by the cost model.
    """

    stopped: Stopped
    seconds: float
    bounds: Mapping[Candidate, float] = field(default_factory=dict)


class Conclusions(Protocol):
    """Remembers how the search for one network's plan ended."""

    def recall(self) -> Conclusion | None:
        """What was noted last; None if nothing was, or for other candidates."""

    def note(self, conclusion: Conclusion) -> None:
        """Remembers a conclusion, and forgets an earlier one."""


class StoredConclusions:
    """Keeps conclusions in the profile store.

    Args:
        profiler: Has looked up all candidates when this is first asked.
        graph: Digest of the network.
        asked: All else that the search depends on, as values for `json`.
    """

    def __init__(self, profiler: Profiler, graph: str, asked: object) -> None:
        self._profiler, self._graph, self._asked = profiler, graph, asked

    @cached_property
    def _key(self) -> Key:
        """Stands for the network and all that could compute it, sources and device included."""
        digests = [self._profiler.keys[candidate].digest for candidate in self._candidates]
        search = hashlib.sha256(json.dumps([digests, self._asked], sort_keys=True).encode()).hexdigest()[:32]
        return search_key(self._graph, search, self._profiler.device)

    @cached_property
    def _candidates(self) -> list[Candidate]:
        """All candidates in an order that does not depend on anything else."""
        keys = self._profiler.keys
        return sorted(keys, key=lambda candidate: keys[candidate].digest)

    def recall(self) -> Conclusion | None:
        """What was noted last; None if nothing was, or for other candidates."""
        found = self._profiler.store.get(self._key)
        if found is None:
            return None
        try:
            stopped, bounds = json.loads(found.message)
            known = {c: float(s) for c, s in zip(self._candidates, bounds, strict=True) if s is not None}
        except (ValueError, TypeError):
            return None  # of an older version
        return Conclusion(stopped, found.median_s, known) if stopped in get_args(Stopped) else None

    def note(self, conclusion: Conclusion) -> None:
        """Remembers a conclusion, and forgets an earlier one."""
        message = json.dumps([conclusion.stopped, [conclusion.bounds.get(c) for c in self._candidates]])
        self._profiler.store.put(self._key, Measurement("ok", (conclusion.seconds,), 0.0, message))
