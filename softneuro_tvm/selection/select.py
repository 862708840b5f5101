"""From measured candidates to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from softneuro_tvm.candidates import Candidates
from softneuro_tvm.device import Device, to_json
from softneuro_tvm.errors import SelectionError
from softneuro_tvm.formats import Format
from softneuro_tvm.graph import Graph
from softneuro_tvm.plan import AdapterChoice, Alternative, LayerChoice, Plan
from softneuro_tvm.selection.comparison import compare_strategies
from softneuro_tvm.selection.limited import TIME_LIMIT_S
from softneuro_tvm.selection.measured import Allowed, MeasuredNetwork, Profile
from softneuro_tvm.selection.pairwise import Table
from softneuro_tvm.selection.resources import Limits
from softneuro_tvm.selection.solver import conflict, marginals, solve
from softneuro_tvm.selection.states import State, conversions


def select(
    graph: Graph,
    candidates: Candidates,
    profile: Profile,
    device: Device,
    *,
    limits: Limits | None = None,
    allowed: Allowed | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    compare: bool = True,
) -> Plan:
    """Chooses a routine for each layer and the adapters between them so that the network is fastest.

    The times of alternatives and of other strategies in the plan do not regard limits.

    Args:
        graph: The network.
        candidates: What could compute each layer, adapters included.
        profile: Measurements; candidates that failed or were not measured are left out.
        device: What was measured on.
        limits: What the plan must keep.
        allowed: Leaves out more candidates: called with the name of a layer, or of a cover's composite.
        time_limit_s: For the search under limits; then the best plan found comes with its bound.
        compare: Whether the plan says what other strategies would reach.

    Raises:
        SelectionError: a layer for which nothing worked or nothing is allowed; or no plan keeps the limits.
    """
    network = MeasuredNetwork(graph, candidates, profile, device, allowed)
    plan = make_plan(network, choose(network, limits or Limits(), time_limit_s), limits or Limits())
    return replace(plan, comparison=compare_strategies(network.problem)) if compare else plan


@dataclass(frozen=True, eq=False)
class Choice:
    """The best way to compute a network.

    Args:
        chosen: The state of each layer by its name.
        cost_s: Its time in seconds, conversions included.
        lower_s: No choice takes less; equal to `cost_s` when proved optimal.
        resources: What it needs.
        method: How it was found.
    """

    chosen: Mapping[str, State]
    cost_s: float
    lower_s: float
    resources: Mapping[str, float]
    method: str


def choose(network: MeasuredNetwork, limits: Limits, time_limit_s: float = TIME_LIMIT_S) -> Choice:
    """The fastest choice that keeps some limits.

    Raises:
        SelectionError: no choice keeps them, or none was found in time, or no adapters connect the layers.
    """
    problem = network.problem
    try:
        solution = solve(problem.pairwise)
    except SelectionError as error:
        raise SelectionError(_conflict(network)) from error
    chosen = problem.chosen(solution.states)
    resources = network.limited.resources(chosen)
    lower_s = min(solution.lower_bound, solution.cost)
    if limits.keeps(resources):
        return Choice(chosen, solution.cost, lower_s, resources, solution.method)
    found = network.limited.fastest(limits, time_limit_s)
    return Choice(found.chosen, found.cost_s, max(found.lower, lower_s), found.resources, "limits+milp")


def make_plan(network: MeasuredNetwork, choice: Choice, limits: Limits) -> Plan:
    """The plan of a choice, without a comparison with other strategies."""
    graph, problem = network.graph, network.problem
    best_with = marginals(problem.pairwise)
    return Plan(
        model=graph.name,
        graph=graph.digest,
        device=to_json(network.device),
        layers=tuple(
            _layer(network, i, choice.chosen[layer.name], best_with[i])
            for i, layer in enumerate(graph.layers)
            if not _is_covered(choice.chosen[layer.name], layer.name)
        ),
        adapters=tuple(_adapter(network, *item) for item in conversions(graph, choice.chosen)),
        predicted_s=choice.cost_s,
        lower_bound_s=choice.lower_s,
        method=choice.method,
        resources=choice.resources,
        limits=limits.given,
    )


def _conflict(network: MeasuredNetwork) -> str:
    """Names the layers whose formats no measured adapter connects."""
    known = network.graph.layers
    layers = [known[i].name for i in conflict(network.problem.pairwise) if i < len(known)]
    return (
        f"no measured adapter connects the formats that work for layer(s) {', '.join(map(repr, layers))}; "
        "`softneuro-tvm tune --json` lists what failed"
    )


def _is_covered(state: State, name: str) -> bool:
    """Whether a later layer computes this one, too."""
    return state.cover is not None and state.cover.parts[-1] != name


def _layer(network: MeasuredNetwork, i: int, chosen: State, best_with: Table) -> LayerChoice:
    """The choice for a layer, or for the layers of which it is the last."""
    last, states = network.graph.layers[i], network.problem.layer_states[i]
    best = {option.identity: (float(best_with[s]), option.cost) for s, option in enumerate(states)}
    priced = [State(*option) for option in network.priced[last.name]]
    for cover, options in network.covers.items():
        if cover.parts[-1] == last.name:
            priced += [State(*option, cover) for option in options]
    others = []
    for option in priced:
        plan_s, cost = best[option.identity]
        if (option.candidate, option.cover) != (chosen.candidate, chosen.cover):
            covered = [each.parts if each else () for each in (option.cover, chosen.cover)]
            name, text = option.candidate.routine.name, alternative_text(option.candidate.descriptor, *covered)
            spread = network.profile[option.candidate].spread
            others.append(Alternative(name, text, option.cost, plan_s + option.cost - cost, spread))
    layer = chosen.cover.layer if chosen.cover else last
    measured = network.profile[chosen.candidate]
    return LayerChoice(
        layer.name,
        layer.kind,
        chosen.candidate.workload.digest,
        chosen.candidate.routine.name,
        chosen.candidate.variant,
        chosen.candidate.descriptor,
        measured.median_s,
        measured.spread,
        tuple(sorted(others, key=lambda a: (a.plan_s, a.descriptor))),
        tuple(network.rejected(layer)),
        chosen.cover.parts if chosen.cover else (),
        layer.inputs,
        layer.outputs,
        measured.error,
    )


def alternative_text(descriptor: str, covered: Sequence[str], chosen: Sequence[str]) -> str:
    """A candidate's descriptor, with the layers that it covers if these are not those that the chosen one covers.

    Args:
        descriptor: The candidate's.
        covered: Names of the layers that it covers; none for an ordinary layer.
        chosen: The same for the chosen candidate.
    """
    return f"{descriptor} covers {'+'.join(covered)}" if covered and covered != chosen else descriptor


def _adapter(network: MeasuredNetwork, tensor: str, source: Format, target: Format) -> AdapterChoice:
    found = network.adapter(network.graph.tensors[tensor], source, target)
    assert found is not None  # its cost would be infinite
    candidate, cost = found
    return AdapterChoice(tensor, source, target, candidate.routine.name, candidate.variant, cost)
