"""A plan: which routine computes each layer, and which adapters stand between. A readable, diffable JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from softneuro_tvm.errors import PlanError
from softneuro_tvm.files import write_atomically
from softneuro_tvm.formats import Format
from softneuro_tvm.routine import Variant

PLAN_VERSION = 2
FINALS = "finals"
"""The method of plans that were not the best by prediction, but the fastest as whole networks."""


@dataclass(frozen=True)
class Alternative:
    """A candidate of a layer as the selection saw it.

    Args:
        routine: Name.
        descriptor: As users write it.
        median_s: Measured time in seconds; a predicted lower bound where nobody timed it.
        plan_s: Time of the best whole plan that uses this candidate (its marginal).
        spread: Interquartile range of the samples over their median.
        measured: False if nobody timed it.
    """

    routine: str
    descriptor: str
    median_s: float
    plan_s: float
    spread: float = 0.0
    measured: bool = True


@dataclass(frozen=True)
class LayerChoice:
    """The routine chosen for one layer, or for several that it computes at once.

    Args:
        layer: Name of the layer, or of the composite that stands for those it covers.
        kind: Its kind.
        workload: Digest of its workload.
        routine: Name of the routine.
        variant: Parameters and formats.
        descriptor: As users write it.
        median_s: Measured time in seconds.
        spread: Interquartile range of the samples over their median.
        alternatives: The other candidates, best whole plan first.
        rejected: Candidates that failed: descriptor and reason.
        covers: Names of the layers that it covers, in the graph's order; none for an ordinary layer.
        inputs: Names of the tensors that are read.
        outputs: Names of the tensors that are written.
        error: Measured max|y - reference| / max|reference|.
    """

    layer: str
    kind: str
    workload: str
    routine: str
    variant: Variant
    descriptor: str
    median_s: float
    spread: float
    alternatives: tuple[Alternative, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    covers: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    error: float = 0.0


@dataclass(frozen=True)
class AdapterChoice:
    """A conversion of one tensor into another format; its readers share it.

    Args:
        tensor: Name of the tensor.
        source: Format in which it is produced.
        target: Format in which it is read.
        routine: Name of the routine that converts it.
        variant: Its parameters.
        median_s: Measured time in seconds.
    """

    tensor: str
    source: Format
    target: Format
    routine: str
    variant: Variant
    median_s: float


@dataclass(frozen=True)
class Plan:
    """Everything that is needed to build a module without measuring.

    Args:
        model: Name of the model.
        graph: Digest of the graph that the plan belongs to.
        device: Description of the device: target, part, threads.
        layers: Choices in the graph's order; a composite stands where the last layer that it covers stood.
        adapters: Conversions.
        predicted_s: Sum of measured times.
        lower_bound_s: No plan is faster, by the same measurements; equal to `predicted_s` when proved optimal.
        method: How the optimum was found, or `FINALS`.
        comparison: Predicted seconds of other plans: greedy, best single layout, beam search, no adapters (a bound).
        resources: What the plan needs: `memory_bytes` (the most that activations need at once, conversions included),
            `workspace_bytes` (the largest of a kernel), `weights_bytes` (as they are packed) and `accuracy` (the sum
            of the chosen candidates' errors).
        limits: The resources that were bounded, with their bounds.
        samples_s: Seconds of single runs of the built network; none if it was not timed.
        pareto: Other plans worth having: `predicted_s` and the resources of each.
        tuning: How the plan was tuned: what was measured, known, skipped, in which time.
    """

    model: str
    graph: str
    device: Mapping[str, Any]
    layers: tuple[LayerChoice, ...]
    adapters: tuple[AdapterChoice, ...]
    predicted_s: float
    lower_bound_s: float
    method: str
    comparison: Mapping[str, float] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    samples_s: tuple[float, ...] = ()
    pareto: tuple[Mapping[str, Any], ...] = ()
    tuning: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Canonical text: equal plans give equal bytes."""
        data = {"version": PLAN_VERSION, **asdict(self)}
        for layer in data["layers"]:
            if not layer["covers"]:
                del layer["covers"]
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> Plan:
        """Parses what `to_json` wrote.

        Raises:
            PlanError: malformed text, or another version.
        """
        try:
            data = json.loads(text)
            version = data.pop("version", None)
            if version != PLAN_VERSION:
                raise PlanError(f"plan version {version} is not {PLAN_VERSION}; make the plan again with `tune`")
            data["layers"] = tuple(_layer(item) for item in data["layers"])
            data["adapters"] = tuple(_adapter(item) for item in data["adapters"])
            data["samples_s"] = tuple(float(sample) for sample in data["samples_s"])
            data["pareto"] = tuple(dict(point) for point in data["pareto"])
            return _made(Plan, data)  # type: ignore[no-any-return]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PlanError(f"the plan is malformed ({error}); make it again with `tune`") from error

    def save(self, path: str | Path) -> None:
        """Writes the plan to a file, whole or not at all."""
        write_atomically(Path(path), self.to_json().encode())

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Reads a plan file.

        Raises:
            PlanError: missing or malformed.
        """
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"cannot read plan {str(path)!r}: {error}; make it with `softneuro-tvm tune`") from error
        return Plan.from_json(text)


def _made(kind: type[Any], values: dict[str, Any]) -> Any:
    """An instance from all its fields, defaults included, and nothing else."""
    if missing := {field.name for field in fields(kind)} - values.keys():
        raise KeyError(f"{kind.__name__} lacks {', '.join(sorted(missing))}")
    return kind(**values)


def _formats(items: list[dict[str, str]]) -> tuple[Format, ...]:
    return tuple(Format(**item) for item in items)


def _names(items: list[str]) -> tuple[str, ...]:
    return tuple(str(name) for name in items)


def _variant(item: dict[str, Any]) -> Variant:
    params = tuple((str(key), value) for key, value in item["params"])
    return Variant(params, _formats(item["inputs"]), _formats(item["outputs"]))


def _layer(item: dict[str, Any]) -> LayerChoice:
    item["variant"] = _variant(item["variant"])
    item["alternatives"] = tuple(_made(Alternative, entry) for entry in item["alternatives"])
    item["rejected"] = tuple((str(a), str(b)) for a, b in item["rejected"])
    item["covers"] = _names(item.get("covers", ()))
    item["inputs"], item["outputs"] = _names(item["inputs"]), _names(item["outputs"])
    return _made(LayerChoice, item)  # type: ignore[no-any-return]


def _adapter(item: dict[str, Any]) -> AdapterChoice:
    item["variant"] = _variant(item["variant"])
    item["source"], item["target"] = Format(**item["source"]), Format(**item["target"])
    return _made(AdapterChoice, item)  # type: ignore[no-any-return]
