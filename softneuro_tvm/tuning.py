"""Tuning for one number of threads: enumerate, profile, select, and time whole networks where plans are close."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from softneuro_tvm.candidates import Precision, enumerate_candidates, usable_precision
from softneuro_tvm.cost_model import CostModel
from softneuro_tvm.cost_model.records import usable_records
from softneuro_tvm.device import Device
from softneuro_tvm.finalists import TimeNetworks, play_finals, time_interleaved
from softneuro_tvm.fingerprint import fingerprint
from softneuro_tvm.graph import Graph
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.plan import Plan
from softneuro_tvm.profiler import Observer, Profiler, ProfileStore, residency_of
from softneuro_tvm.profiler.cluster import CompileCluster
from softneuro_tvm.remote.site import Site
from softneuro_tvm.restrictions import Restrictions
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection import Limits, select
from softneuro_tvm.selection.pareto import pareto
from softneuro_tvm.tuner import Network, StoredConclusions, Tuner, TunerOptions, Tuning, with_unmeasured

FINALS_S = 6.0
"""Whole networks are timed if at least so many seconds of the budget are left."""
_NEAR_RECORDS = 30
"""Records of each routine that correct the cost model before anything of the network is measured."""


@dataclass(frozen=True)
class TuneOptions:
    """How to tune.

    Args:
        budget_s: Seconds for measuring; the first plan is completed even if it takes longer. As long as it takes by
            default.
        exhaustive: Measures every candidate instead of those that could change the plan; so do limits and fronts.
        locked: Measures nothing, and fails if anything would have to be measured.
        retry_failed: Measures candidates again that failed before.
        limits: Resources that the plan must not exceed.
        pareto: Also finds the plans that trade time for memory and for accuracy.
        routine: Descriptors of what is used wherever it can be used.
        force: Descriptors, with layers, of what is used whatever it costs.
        forbid: Descriptors of what is not used.
        precision: ``mixed`` also computes in float16, where the device has the arithmetic and it is faster.
        finals: Times whole networks where plans of different kinds are close.
        threads: Numbers of threads to compare, see `thread_counts`; the device's alone by default.
        search: How far active measuring goes.
        dask_scheduler: Address of the dask scheduler whose workers compile; this machine does by default.
    """

    budget_s: float | None = None
    exhaustive: bool = False
    locked: bool = False
    retry_failed: bool = False
    limits: Limits | None = None
    pareto: bool = False
    routine: Sequence[str] = ()
    force: Sequence[str] = ()
    forbid: Sequence[str] = ()
    precision: Precision = "float32"
    finals: bool = True
    threads: Sequence[int] = ()
    search: TunerOptions = field(default_factory=TunerOptions)
    dask_scheduler: str | None = None

    @property
    def measures_all(self) -> bool:
        """Whether every candidate is measured."""
        return self.exhaustive or self.limits is not None or self.pareto


@dataclass(frozen=True, eq=False)
class Tuned:
    """What tuning for one number of threads came to.

    Args:
        device: With that number of threads.
        network: With the candidates that could compute it.
        results: Measurements.
        tuning: How it went.
        plan: The best one by prediction; None if all were slower than one known from elsewhere.
        restrictions: Descriptors that the plan was made under, as texts.
    """

    device: Device
    network: Network
    results: Mapping[Candidate, Measurement]
    tuning: Tuning
    plan: Plan | None
    restrictions: Mapping[str, Sequence[str]]

    @property
    def summary(self) -> dict[str, Any]:
        """What a plan says of its tuning."""
        summary = self.tuning.summary | {"precision": self.network.candidates.precision}
        return summary | ({"restrictions": dict(self.restrictions)} if self.restrictions else {})


@dataclass(frozen=True, eq=False)
class TuneContext:
    """All that tuning a network needs, whatever the number of threads.

    Args:
        graph: The network.
        options: How to tune.
        store: Known measurements; receives new ones.
        observer: Is told about progress.
        end_s: By `time.monotonic`, when the budget is spent.
        site: Where to measure; here if None.
        cluster: Where to compile; here if None.
    """

    graph: Graph
    options: TuneOptions
    store: ProfileStore
    observer: Observer | None = None
    end_s: float = math.inf
    site: Site | None = None
    cluster: CompileCluster | None = None

    def tune(self, device: Device, deadline_s: float, limit_s: float = math.inf) -> Tuned:
        """Measures what could be part of the best plan, and selects it.

        Args:
            device: What to tune for.
            deadline_s: By `time.monotonic`; the first plan is completed in any case.
            limit_s: Slower plans are of no use.

        Raises:
            RestrictionError: a descriptor cannot be read, or the restrictions leave nothing.
            SelectionError: a layer for which no routine worked, or no plan keeps the limits.
            ProfileError: measuring failed as a whole, or was forbidden.
            KeyboardInterrupt: by the user, before there was a plan.
        """
        graph, options = self.graph, self.options
        residency = residency_of(graph.weight_bytes, device)
        candidates = enumerate_candidates(graph, device, precision=usable_precision(options.precision, device))
        rules = Restrictions(graph, candidates, routine=options.routine, force=options.force, forbid=options.forbid)
        network = Network(graph, rules.candidates(candidates), rules) if rules else Network(graph, candidates)
        search = replace(options.search, exhaustive=options.measures_all, locked=options.locked)
        self.store.fingerprint = self.site.fingerprint(device) if self.site else fingerprint(device)
        with Profiler(
            device,
            self.store,
            residency=residency,
            observer=self.observer,
            workers=self.site.workers if self.site else None,
            retry_failed=options.retry_failed,
            board=self.site.board if self.site else None,
            cluster=self.cluster,
        ) as profiler:
            asked = [search.gap, search.gain, search.confidence, search.repeats, search.exhaustive, rules.texts]
            tuner = Tuner(
                network,
                profiler,
                lambda: self._cost_model(profiler),
                deadline_s,
                search,
                limit_s,
                None if options.retry_failed else StoredConclusions(profiler, graph.digest, asked),
            )
            tuning = tuner.run()
        found = (graph, tuner.network.candidates, profiler.results, device)
        plan = None
        if tuning.stopped != "slower":
            plan = select(*found, limits=options.limits, allowed=tuner.network.allowed)
        return Tuned(device, tuner.network, profiler.results, tuning, plan, rules.texts if rules else {})

    def _cost_model(self, profiler: Profiler) -> CostModel:
        """The cost model, corrected by what the store knows of candidates like those of this network."""
        model = CostModel.for_device(profiler.device, profiler.residency)
        model.seed(usable_records(self.store.records_near(profiler.keys.values(), _NEAR_RECORDS)))
        return model

    @property
    def time_networks(self) -> TimeNetworks:
        """What times whole networks in turns."""
        return self.site.time_networks if self.site else time_interleaved

    def finished(self, tuned: Tuned) -> Plan:
        """The plan with its front, or the one of its rivals that is faster as a whole network.

        Args:
            tuned: Has a plan.
        """
        plan, network, results, device = tuned.plan, tuned.network, tuned.results, tuned.device
        assert plan is not None
        summary = tuned.summary
        try:
            if tuned.tuning.stopped != "interrupted":
                plan = self._refined(plan, network, results, device)
        except KeyboardInterrupt:
            summary["stopped"] = "interrupted"
        plan = with_unmeasured(plan, network, results, tuned.tuning.bounds)
        return replace(plan, tuning=summary)

    def _refined(self, plan: Plan, network: Network, results: Mapping[Candidate, Measurement], device: Device) -> Plan:
        options = self.options
        if options.pareto:
            found = (network.graph, network.candidates, results, device)
            return replace(plan, pareto=pareto(*found, limits=options.limits, allowed=network.allowed))
        in_time = self.end_s - time.monotonic() > FINALS_S
        if options.finals and options.limits is None and in_time:
            return play_finals(network, results, device, plan, self.store, self.time_networks, locked=options.locked)
        return plan
