"""Why a restriction cannot hold, in words: what was asked, what there is, and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches

from softneuro_tvm.descriptor import Descriptor, parse
from softneuro_tvm.errors import DescriptorError, RestrictionError
from softneuro_tvm.registry import routines
from softneuro_tvm.routine import Candidate

Refusals = Iterable[tuple[str, str]]
"""Pairs of routine name and the reason why it does not apply."""
_MOST = 8
"""Values that an error lists."""


def nothing_matches(
    descriptor: Descriptor, where: str, options: Sequence[Candidate], refusals: Refusals
) -> DescriptorError:
    """Points at the first part of a descriptor with which nothing is left.

    Args:
        descriptor: Matches none of the candidates.
        where: Whose candidates these are, e.g. ``layer 'conv1'``.
        options: The candidates.
        refusals: Routines that do not apply there.
    """
    asked = Descriptor(descriptor.device)
    left = list(options)
    for name in ("device", "dtype", "layout", "algorithm"):
        part = getattr(descriptor, name)
        asked = replace(asked, **{name: part})
        remaining = [option for option in left if asked.matches(option)]
        if not remaining:
            present = _listed(getattr(parse(option.descriptor), name) for option in left)
            if name == "algorithm":
                return descriptor.error(part, _no_algorithm(part, where, present, refusals))
            what = {"device": "runs on", "dtype": "writes", "layout": "writes the layout"}[name]
            hint = "; it needs `--precision mixed`, and a device with the arithmetic" if part == "float16" else ""
            return descriptor.error(
                part, f"no candidate of {where} {what} {part!r}{_meant(part, descriptor)}; {present}{hint}"
            )
        left = remaining
    for key, value in descriptor.params:
        asked = replace(asked, params=(*asked.params, (key, value)))
        remaining = [option for option in left if asked.matches(option)]
        if not remaining:
            return descriptor.error(f"{key}={value}", _no_parameter(key, value, descriptor.algorithm, where, left))
        left = remaining
    raise AssertionError(f"{descriptor} matches {left[0].descriptor}")


def _listed(values: Iterable[str], one: str = "there is", several: str = "there are") -> str:
    """``there are a, b, c``, each once, in order; not too many."""
    distinct = sorted(set(values), key=lambda value: (int(value), "") if value.isdigit() else (0, value))
    more = f" and {len(distinct) - _MOST} more" if len(distinct) > _MOST else ""
    return f"{one if len(distinct) == 1 else several} {', '.join(distinct[:_MOST])}{more}"


def _meant(part: str, descriptor: Descriptor) -> str:
    """A hint where the name of an algorithm stands in another place."""
    if any(part in (name, name.partition("/")[2]) for name in routines()):
        device = "cpu" if part == descriptor.device else descriptor.device
        return f" (did you mean {device}/{part}?)"
    return ""


def _no_algorithm(algorithm: str, where: str, present: str, refusals: Refusals) -> str:
    known = {name: routine for name, routine in routines().items() if algorithm in (name, name.partition("/")[2])}
    if not known:
        names = dict.fromkeys(name if "/" in algorithm else name.partition("/")[2] for name in routines())
        close = get_close_matches(algorithm, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "`softneuro-tvm routines` lists them."
        return f"there is no algorithm {algorithm!r}; {hint} For {where} {present}"
    reasons = list(dict.fromkeys(f"{name} {reason}" for name, reason in refusals if name in known))
    if not reasons:
        reasons = [f"{name} computes {routine.kind} layers" for name, routine in known.items()]
    return f"{algorithm!r} does not apply to {where}: {'; '.join(reasons[:3])}. For it {present}"


def _no_parameter(key: str, value: str, algorithm: str, where: str, options: Iterable[Candidate]) -> str:
    settings = [dict(parse(option.descriptor).params) for option in options]
    values = {setting[key] for setting in settings if key in setting}
    if values:
        present = _listed(values, f"{key} is", f"{key} is one of")
        return f"no candidate of {where} has {key}={value} and all that stands before it; {present}"
    names = sorted({name for setting in settings for name in setting})
    close = get_close_matches(key, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    has = _listed(names, "it has", "it has") if names else "it has no parameters"
    return f"{algorithm} of {where} has no parameter {key!r}; {hint}{has}"


def nothing_left(layers: Sequence[str], asked: Iterable[str]) -> RestrictionError:
    """Layers that nothing may compute, with the restrictions that bear on them.

    Args:
        layers: Their names; several if covers could compute each of them, but not all.
        asked: The restrictions, e.g. ``force cpu/direct@conv1``.
    """
    named = f"layer {layers[0]!r}" if len(layers) == 1 else f"the layers {', '.join(map(repr, layers))} together"
    return RestrictionError(
        f"nothing is left that may compute {named} with {', '.join(asked)}; take one of these back, or use `routine`, "
        "which only holds where it can"
    )
