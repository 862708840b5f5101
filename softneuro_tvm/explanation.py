"""Why a plan chose what it chose, in numbers and in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from softneuro_tvm.descriptor import Descriptor, parse, shown_layout
from softneuro_tvm.formats import Format
from softneuro_tvm.plan import FINALS, AdapterChoice, Alternative, LayerChoice, Plan

_NEGLIGIBLE = 1e-4
"""Part of the whole network's time below which a difference is not worth a word."""


@dataclass(frozen=True)
class Loss:
    """What the best whole plan with another candidate loses.

    Args:
        alternative: The candidate.
        lost_s: Seconds that the whole network takes longer; negative if only limits are in the way, if nobody timed
            the candidate and it may be better, or if whole networks were timed and that decided otherwise.
        own_s: Seconds of these for which the candidate itself takes longer; None where choice and candidate do not
            compute the same layers.
        noise_s: Spread of the two measurements: a loss below it may be none.
        decided_by_finals: Whether the plan is not the best one by prediction, but was faster as a whole network.
    """

    alternative: Alternative
    lost_s: float
    own_s: float | None
    noise_s: float
    decided_by_finals: bool = False

    @property
    def elsewhere_s(self) -> float | None:
        """Seconds lost in conversions, and because other layers must adapt; negative if they win."""
        return None if self.own_s is None else self.lost_s - self.own_s


def candidate_text(descriptor: str) -> str:
    """A candidate as one says it: ``winograd m=4 in NCHW16c``."""
    text, _, covered = descriptor.partition(" ")
    where = f" ({covered})" if covered else ""
    found = parse(text)
    port = Format(shown_layout(found.layout), found.dtype)
    return f"{_algorithm(found)} in {port.shown}{where}"


def choice_text(choice: LayerChoice) -> str:
    """A choice as one says it: ``winograd m=4 in NCHW16c``, ``stem from NCHW to NCHW16c``."""
    layouts = [dict.fromkeys(port.shown for port in ports) for ports in _ports(choice)]
    where = f"in {', '.join(layouts[1])}"
    if choice.variant.inputs and layouts[0] != layouts[1]:
        where = f"from {', '.join(layouts[0])} to {', '.join(layouts[1])}"
    return f"{_algorithm(parse(choice.descriptor))} {where}"


def _ports(choice: LayerChoice) -> tuple[tuple[Format, ...], tuple[Format, ...]]:
    return choice.variant.inputs, choice.variant.outputs


def _algorithm(descriptor: Descriptor) -> str:
    """The algorithm, with the parameter that says most: Winograd's output tile."""
    tile = dict(descriptor.params).get("m")
    return f"{descriptor.algorithm} m={tile}" if tile else descriptor.algorithm


def loss(plan: Plan, choice: LayerChoice, alternative: Alternative) -> Loss:
    """What the best whole plan with an alternative of a choice loses."""
    comparable = not choice.covers and " " not in alternative.descriptor
    return Loss(
        alternative,
        alternative.plan_s - plan.predicted_s,
        alternative.median_s - choice.median_s if comparable else None,
        choice.spread * choice.median_s + alternative.spread * alternative.median_s,
        plan.method == FINALS,
    )


def other_routines(plan: Plan, choice: LayerChoice) -> tuple[Loss, ...]:
    """For each other routine what the best whole plan with it loses, the least loss first."""
    best: dict[str, Alternative] = {}
    for alternative in choice.alternatives:
        if alternative.routine != choice.routine:
            present = best.setdefault(alternative.routine, alternative)
            if alternative.plan_s < present.plan_s:
                best[alternative.routine] = alternative
    return tuple(sorted((loss(plan, choice, found) for found in best.values()), key=lambda item: item.lost_s))


def with_routine(plan: Plan, asked: Descriptor) -> Iterator[tuple[LayerChoice, Loss | None]]:
    """The layers that candidates of a description compute or could compute.

    Yields:
        The choice, and what is lost with the best such candidate; None where the choice is one.
    """
    for choice in plan.layers:
        if asked.admits(choice.routine, choice.descriptor):
            yield choice, None
            continue
        fitting = [a for a in choice.alternatives if asked.admits(a.routine, a.descriptor.partition(" ")[0])]
        if fitting:
            yield choice, loss(plan, choice, min(fitting, key=lambda a: a.plan_s))


def layer_sentence(plan: Plan, choice: LayerChoice) -> str:
    """Why a layer is computed as it is: ``winograd m=4 in NCHW16c takes 0.21 ms. The next best routine ...``."""
    what = f"computes these {len(choice.covers)} layers at once in" if choice.covers else "takes"
    begin = f"{choice_text(choice)} {what} {_ms(choice.median_s)}."
    others = other_routines(plan, choice)
    if others:
        return f"{begin} The next best routine, {loss_sentence(others[0])}"
    if choice.alternatives:
        found = loss(plan, choice, min(choice.alternatives, key=lambda a: a.plan_s))
        return f"{begin} No other routine applies; its next best setting, {loss_sentence(found)}"
    failed = f", {len(choice.rejected)} candidate(s) failed" if choice.rejected else ""
    return f"{begin} Nothing else applies{failed}."


def loss_sentence(found: Loss) -> str:
    """What using another candidate means; begins with its name and ends with a full stop."""
    other = found.alternative
    name = candidate_text(other.descriptor)
    if found.lost_s == float("inf"):
        return f"{name}, fits into no plan: no adapter leads there, or a limit or restriction is in the way."
    if not other.measured:
        name, least = f"{name}, was not measured: it", "at least "
    else:
        name, least = f"{name},", ""
    itself = " itself" if found.own_s is not None and other.measured else ""
    takes = f"{name} takes {least}{_ms(other.median_s)}{itself}"
    if abs(found.lost_s) <= _NEGLIGIBLE * other.plan_s:
        return f"{takes}, and the whole network would take as long."
    if found.lost_s < 0 and not other.measured:
        return f"{takes} and might make the whole network up to {_ms(-found.lost_s)} faster."
    if found.lost_s < 0 and found.decided_by_finals:
        faster = f"{takes} and would make the whole network {_ms(-found.lost_s)} faster by prediction"
        return f"{faster}, but this plan was faster when whole networks were timed."
    if found.lost_s < 0:
        return f"{takes} and would make the whole network {_ms(-found.lost_s)} faster, but not within the limits."
    whole = f"{takes} and would make the whole network {least}{_ms(found.lost_s)} slower"
    return f"{whole}{_doubt(found)}{_reason(found)}."


def _reason(found: Loss) -> str:
    """Where the loss comes from, if not from the candidate's own time alone."""
    own, elsewhere = found.own_s, found.elsewhere_s
    negligible = _NEGLIGIBLE * found.alternative.plan_s
    if own is None or elsewhere is None or abs(elsewhere) <= negligible:
        return ""
    if abs(own) <= negligible:
        return ": it is about as fast, but conversions and other layers would take longer"
    if own < 0:
        return f": it is {_ms(-own)} faster, but conversions and other layers would take {_ms(elsewhere)} longer"
    if elsewhere > 0:
        return f": {_ms(own)} by itself, {_ms(elsewhere)} in conversions and in other layers that would have to adapt"
    return f": {_ms(own)} by itself, of which {_ms(-elsewhere)} would be won back in conversions and other layers"


def _doubt(found: Loss) -> str:
    return " (less than the spread of these measurements)" if found.lost_s < found.noise_s else ""


def adapter_sentences(plan: Plan) -> Iterator[str]:
    """What each adapter converts, between whom, and what it costs."""
    if not plan.adapters:
        yield "No adapters: every layer reads what the one before it writes."
        return
    total = sum(adapter.median_s for adapter in plan.adapters)
    share = f" ({total / plan.predicted_s:.1%} of the network)" if plan.predicted_s else ""
    yield f"{len(plan.adapters)} adapter(s) take {_ms(total)}{share}:"
    for adapter in plan.adapters:
        source, target = adapter.source, adapter.target
        yield f"  {adapter.tensor} from {source.shown} to {target.shown}, {_ms(adapter.median_s)}{_ends(plan, adapter)}"


def _ends(plan: Plan, adapter: AdapterChoice) -> str:
    """Who writes the tensor, and who reads it in the target's format."""
    writers = [choice.layer for choice in plan.layers if adapter.tensor in choice.outputs]
    readers = [
        choice.layer
        for choice in plan.layers
        if any(
            tensor == adapter.tensor and port == adapter.target
            for tensor, port in zip(choice.inputs, choice.variant.inputs, strict=False)
        )
    ]
    return f", between {', '.join(writers) or 'the input'} and {', '.join(readers) or 'the output'}"


def layout_sentences(plan: Plan) -> Iterator[str]:
    """What staying in one layout would cost, the best layout first."""
    found = {name.partition(":")[2]: s for name, s in plan.comparison.items() if name.startswith("single_layout:")}
    for layout, seconds in sorted(found.items(), key=lambda item: item[1]):
        lost = seconds - plan.predicted_s
        if abs(lost) <= _NEGLIGIBLE * plan.predicted_s:
            yield f"With {layout} wherever possible the network would take as long."
        else:
            share = f" ({abs(lost) / plan.predicted_s:.1%})" if plan.predicted_s else ""
            difference = f"{_ms(abs(lost))}{share} {'more' if lost > 0 else 'less'}"
            yield f"With {layout} wherever possible the network would take {_ms(seconds)}, {difference}."


def _ms(seconds: float) -> str:
    """Milliseconds with three significant digits."""
    return f"{float(f'{seconds * 1e3:.3g}'):g} ms"
