"""Candidates that nobody measured, in a plan: the least that they may take, and the best plan with each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from softneuro_tvm.layer_kind import Cover
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.plan import Alternative, LayerChoice, Plan
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection.select import alternative_text
from softneuro_tvm.tuner.network import Network

_FORBIDDING_S = 1e4
"""Added to the price of what was not measured: the best plan then uses such a candidate only where it must."""

_Place = tuple[str, Cover | None]
"""Name of a layer, and the cover that ends with it if it is not computed by itself."""


def with_unmeasured(
    plan: Plan, network: Network, results: Mapping[Candidate, Measurement], bounds: Mapping[Candidate, float]
) -> Plan:
    """The plan with candidates that were not measured among the alternatives of its layers.

    Their `Alternative.median_s` is a lower bound. So is `Alternative.plan_s`: of the best plan that uses the candidate
    and else what was measured; where no such plan exists, others that were not measured are taken at their bounds.

    Args:
        plan: Of the network.
        network: What was tuned.
        results: Measurements.
        bounds: Seconds that candidates without a measurement take at least; those that are not in it are left out.
    """
    unknown = {c: seconds for c, seconds in bounds.items() if c not in results}
    of_layers = {option for options in network.options.values() for option in options} & unknown.keys()
    if not of_layers:
        return plan

    def at_bound(candidate: Candidate) -> float:
        return unknown[candidate] if candidate in unknown else _timed(results, candidate)

    def forbidding(candidate: Candidate) -> float:
        return at_bound(candidate) + (_FORBIDDING_S if candidate in of_layers else 0.0)

    alone = network.plans_with(network.problem(forbidding), forbidding)
    found: dict[_Place, list[Alternative]] = {}
    joint: Mapping[tuple[_Place, Candidate], float] | None = None
    for (place, candidate), plan_s in alone.items():
        if candidate not in of_layers:
            continue
        plan_s -= _FORBIDDING_S
        if plan_s > _FORBIDDING_S / 2:
            joint = joint or network.plans_with(network.problem(at_bound), at_bound)
            plan_s = joint[place, candidate]
        name, text = candidate.routine.name, candidate.descriptor
        found.setdefault(place, []).append(Alternative(name, text, unknown[candidate], plan_s, measured=False))
    return replace(plan, layers=tuple(_completed(choice, found) for choice in plan.layers))


def _timed(results: Mapping[Candidate, Measurement], candidate: Candidate) -> float:
    found = results.get(candidate)
    return math.inf if found is None else found.median_s


def _completed(choice: LayerChoice, found: Mapping[_Place, list[Alternative]]) -> LayerChoice:
    """A choice with further alternatives."""
    last = choice.covers[-1] if choice.covers else choice.layer
    more = []
    for (name, cover), alternatives in found.items():
        if name == last:
            parts = cover.parts if cover else ()
            more += [replace(a, descriptor=alternative_text(a.descriptor, parts, choice.covers)) for a in alternatives]
    everything = sorted((*choice.alternatives, *more), key=lambda a: (a.plan_s, a.descriptor))
    return replace(choice, alternatives=tuple(everything))
