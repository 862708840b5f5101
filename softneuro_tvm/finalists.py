"""The last round of tuning: plans that differ in kind and are close by their predicted times are timed as a whole.

The sum of layers timed by themselves misses what layers do to one another: what they leave in caches, above all. Plans
that differ in a few tiles of a few layers hardly differ in that; those that do without a whole family of routines do.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from softneuro_tvm.builder import Packed, build
from softneuro_tvm.device import Device
from softneuro_tvm.errors import SelectionError
from softneuro_tvm.graph import Graph
from softneuro_tvm.machine import machine_lock
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.plan import FINALS, Plan
from softneuro_tvm.profiler import ProfileStore
from softneuro_tvm.profiler.keys import network_key
from softneuro_tvm.reference import sample_inputs
from softneuro_tvm.routine import Candidate
from softneuro_tvm.runtime import Module
from softneuro_tvm.selection import Limits
from softneuro_tvm.selection.measured import MeasuredNetwork
from softneuro_tvm.selection.select import choose, make_plan
from softneuro_tvm.selection.solver import least_cost
from softneuro_tvm.tuner import Network

TimeNetworks = Callable[[Sequence[Module], Mapping[str, np.ndarray]], list[tuple[float, ...]]]
"""Times networks with the same inputs in turns: seconds of single runs, for each."""

FINALISTS = 3
"""Plans that are timed as a whole, at most."""
_CLOSE = 0.05
"""Plans whose predicted times are further behind the best, relative to it, are not timed."""
_CLEAR = 0.005
"""A clearly faster plan is faster by this share."""
_COPIES = 4
_ROUNDS = 8
_ROUND_S = 0.05


def play_finals(
    network: Network,
    results: Mapping[Candidate, Measurement],
    device: Device,
    plan: Plan,
    store: ProfileStore,
    time_networks: TimeNetworks | None = None,
    *,
    locked: bool = False,
) -> Plan:
    """The fastest of a plan and its rivals, timed as whole networks in turns; the plan as it is if it has no rivals.

    Args:
        network: What was tuned.
        results: Measurements.
        device: This machine.
        plan: The best one by prediction.
        store: Knows earlier finals, and receives these.
        time_networks: Times networks; `time_interleaved` by default.
        locked: Times nothing.
    """
    plans = [plan, *rivals(network, results, device, plan)]
    if len(plans) == 1:
        return plan
    timed = time_plans(network.graph, plans, device, store, time_networks, locked=locked)
    return winner(timed) if timed else plan


def time_plans(
    graph: Graph,
    plans: Sequence[Plan],
    device: Device,
    store: ProfileStore,
    time_networks: TimeNetworks | None = None,
    *,
    locked: bool = False,
) -> list[Plan]:
    """Plans with the times of their whole networks, taken in turns; none if they cannot be timed.

    Args:
        graph: The network.
        plans: They may be for different numbers of threads.
        device: This machine, with any number of threads.
        store: Knows earlier times of the same plans in turns with one another, and receives these.
        time_networks: Times networks; `time_interleaved` by default.
        locked: Times nothing.
    """
    match = _digest(sorted(map(identity, plans)))
    devices = [device.with_threads(int(plan.device["threads"])) for plan in plans]
    pairs = list(zip(plans, devices, strict=True))
    keys = [network_key(graph.digest, f"{identity(plan)} in {match}", each) for plan, each in pairs]
    known = store.get_many(keys)
    if len(known) < len(plans):
        if locked or not _fit_in_memory(graph, len(plans)):
            return []
        packed: Packed = {}
        modules = [build(graph, plan, each, packed=packed) for plan, each in pairs]
        taken = (time_networks or time_interleaved)(modules, sample_inputs(graph))
        for key, samples_s in zip(keys, taken, strict=True):
            known[key] = Measurement("ok", samples_s, 0.0)
            store.put(key, known[key])
    return [replace(plan, samples_s=known[key].samples_s) for plan, key in zip(plans, keys, strict=True)]


def winner(plans: Sequence[Plan], clear: float = _CLEAR) -> Plan:
    """The fastest of timed plans: one is preferred to those before it if it is clearly faster, whatever else runs.

    Args:
        plans: With samples.
        clear: By which share another one must be faster.
    """

    def beats(one: Plan, other: Plan) -> bool:
        pairs = zip(*(statistics.quantiles(plan.samples_s, n=4) for plan in (one, other)), strict=True)
        return all(ours < theirs * (1 - clear) for ours, theirs in pairs)

    best = plans[0]
    for plan in plans[1:]:
        if beats(plan, best):
            best = plan
    return best


def rivals(network: Network, results: Mapping[Candidate, Measurement], device: Device, plan: Plan) -> list[Plan]:
    """Plans that do without one of the families of routines that a plan uses, and are almost as fast by prediction.

    Args:
        network: What was tuned.
        results: Measurements.
        device: What was measured on.
        plan: The best one by prediction.

    Returns:
        The closest ones first. What they say of alternatives and of the least possible time regards all families.
    """
    families = dict.fromkeys(choice.routine for choice in plan.layers)
    seconds = {family: _seconds_without(family, network, results) for family in families}
    close = [family for family in families if seconds[family] <= plan.predicted_s * (1 + _CLOSE)]
    found = {identity(plan): plan}
    everything = (network.graph, network.candidates, results, device)
    whole = MeasuredNetwork(*everything, network.allowed)
    for family in sorted(close, key=seconds.__getitem__):
        if len(found) < FINALISTS:

            def others(name: str, candidate: Candidate, family: str = family) -> bool:
                allowed = network.allowed is None or network.allowed(name, candidate)
                return allowed and candidate.routine.name != family

            choice = choose(MeasuredNetwork(*everything, others), Limits())
            rival = make_plan(whole, replace(choice, lower_s=plan.lower_bound_s, method=FINALS), Limits())
            found.setdefault(identity(rival), replace(rival, comparison=plan.comparison))
    return list(found.values())[1:]


def _seconds_without(family: str, network: Network, results: Mapping[Candidate, Measurement]) -> float:
    """Predicted time of the best plan without a family of routines; infinite if there is none."""

    def price(candidate: Candidate) -> float:
        found = results.get(candidate)
        return math.inf if found is None or candidate.routine.name == family else found.median_s

    try:
        return least_cost(network.problem(price).pairwise)
    except SelectionError:
        return math.inf  # some layer needs this family


def _fit_in_memory(graph: Graph, count: int) -> bool:
    """Whether so many modules can be loaded at once: each needs a few times its weights while it is built."""
    return count * _COPIES * graph.weight_bytes < os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def identity(plan: Plan) -> str:
    """Text that plans have in common if and only if they choose the same."""
    choices = [(c.layer, c.routine, asdict(c.variant)) for c in plan.layers]
    adapters = [(a.tensor, asdict(a.target), a.routine, asdict(a.variant)) for a in plan.adapters]
    return _digest([choices, adapters, plan.device["threads"]])


def _digest(values: object) -> str:
    """Stands for values for `json`."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def time_interleaved(modules: Sequence[Module], inputs: Mapping[str, np.ndarray]) -> list[tuple[float, ...]]:
    """Times networks in turns.

    Args:
        modules: The networks.
        inputs: Arrays by input name.

    Returns:
        Seconds of single runs, for each module.
    """
    samples: list[list[float]] = [[] for _ in modules]
    tensors = [module.tensors([], inputs) for module in modules]
    with machine_lock():
        for _ in range(_ROUNDS):
            for own, module, operands in zip(samples, modules, tensors, strict=True):
                warm_s = module.time(operands, repeat=1, warm_up=1)[0]
                own += module.time(operands, repeat=min(50, max(2, int(_ROUND_S / warm_s))), warm_up=0)
    return [tuple(own) for own in samples]
