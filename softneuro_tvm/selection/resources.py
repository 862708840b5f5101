"""What candidates and choices need besides time: memory, weights, accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from softneuro_tvm.device import Device
from softneuro_tvm.errors import SelectionError
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection.packing import packed_bytes


@dataclass(frozen=True)
class Limits:
    """Bounds that a plan must keep; None where there is none.

    Args:
        memory_bytes: The most that activations need at once, conversions included. It is what any placement of the
            buffers needs at least; the arena of a built module may need a little more.
        workspace_bytes: The largest workspace of a kernel.
        weights_bytes: All weights as they are packed.
        accuracy: The sum of the chosen candidates' measured errors.
    """

    memory_bytes: float | None = None
    workspace_bytes: float | None = None
    weights_bytes: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        for name, bound in self.given.items():
            if not bound >= 0:
                raise SelectionError(f"the limit {name} is {bound}; give a number that is not negative")

    @property
    def given(self) -> dict[str, float]:
        """The limits that there are, by resource."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: bound for name, bound in found.items() if bound is not None}

    @staticmethod
    def at(point: Mapping[str, float]) -> Limits:
        """Limits that a point of a front just keeps: selecting under them gives its plan."""
        return Limits(**{field.name: point[field.name] for field in fields(Limits)})

    def keeps(self, resources: Mapping[str, float]) -> bool:
        """Whether no resource is above its limit."""
        return all(resources[name] <= bound for name, bound in self.given.items())


@dataclass(frozen=True)
class Needs:
    """What one candidate needs.

    Args:
        error: Measured max|y - reference| / max|reference|.
        workspace_bytes: Scratch memory while its kernel runs.
        weights_bytes: Its weights as they are packed.
        in_place: Inputs in whose memory its output may lie.
        is_view: True if nothing runs: the output is the memory of its input, or of its inputs one after the other.
    """

    error: float
    workspace_bytes: int
    weights_bytes: int
    in_place: tuple[int, ...] = ()
    is_view: bool = False


NeedsOf = Callable[[Candidate], Needs]


def needs_of(profile: Mapping[Candidate, Measurement], device: Device) -> NeedsOf:
    """What each measured candidate needs; looked up once for each.

    A candidate that was measured to take no time at all is one for which nothing runs.
    """
    known: dict[int, tuple[Candidate, Needs]] = {}

    def needs(candidate: Candidate) -> Needs:
        if id(candidate) not in known:
            measured, routine = profile[candidate], candidate.routine
            workload, variant = candidate.workload, candidate.variant
            known[id(candidate)] = (
                candidate,
                Needs(
                    measured.error,
                    routine.workspace_bytes(workload, variant),
                    packed_bytes(candidate),
                    routine.in_place_inputs(workload, variant, device),
                    measured.median_s == 0.0,
                ),
            )
        return known[id(candidate)][1]

    return needs
