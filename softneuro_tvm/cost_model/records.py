"""Candidates back from the text of profile records: what the cost model learns from."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from softneuro_tvm.errors import ProfileError, RoutineError
from softneuro_tvm.formats import Format, TensorType
from softneuro_tvm.graph import Workload
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.registry import layer_kind, routine
from softneuro_tvm.routine import Candidate, Parameter, Variant

if TYPE_CHECKING:
    from softneuro_tvm.profiler.keys import Key


@dataclass(frozen=True)
class Record:
    """One measured candidate.

    Args:
        candidate: What was measured.
        threads: Threads that it could use.
        residency: Where its weights were kept: ``l2``, ``l3`` or ``dram``.
        median_s: Median of the samples in seconds.
    """

    candidate: Candidate
    threads: int
    residency: str
    median_s: float


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at every depth."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@lru_cache(maxsize=256)
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(hint: Any, data: Any) -> Any:
    """A value of an attribute's type from JSON; dataclasses may nest, and subclasses are told by their fields."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if dataclasses.is_dataclass(option)]
        return _value(options[0], data) if isinstance(data, dict) and options else _tuples(data)
    if not dataclasses.is_dataclass(hint):
        return _tuples(data)
    assert isinstance(hint, type)
    for kind in (hint, *hint.__subclasses__()):
        if {field.name for field in dataclasses.fields(kind)} == set(data):
            return kind(**{name: _value(_hints(kind)[name], value) for name, value in data.items()})
    raise ProfileError(f"no attributes of {hint.__name__} have the fields {sorted(data)}; measure again")


@lru_cache(maxsize=4096)
def workload_from_json(text: str) -> Workload:
    """Inverse of `Workload.json`.

    Raises:
        ProfileError: the layer kind is unknown, or has other attributes by now.
    """
    try:
        data = json.loads(text)
        found = Workload(
            data["kind"],
            _value(layer_kind(data["kind"]).Attributes, data["attributes"]),
            tuple(map(_tensor, data["inputs"])),
            tuple(map(_tensor, data["outputs"])),
            tuple((name, _tensor(weight)) for name, weight in data["weights"]),
        )
    except (KeyError, TypeError, ValueError, RoutineError) as error:
        raise ProfileError(f"this is not a workload of today's layer kinds: {text:.200} ({error!r})") from error
    if found.json != text:
        raise ProfileError(f"layer kind {found.kind!r} has other attributes by now: {text:.200}; measure again")
    return found


def _tensor(data: Any) -> TensorType:
    return TensorType(tuple(data["shape"]), data["dtype"])


def _parameter(text: str) -> Parameter:
    return int(text) if text.removeprefix("-").isdecimal() else text


def _format(text: str) -> Format:
    device, dtype, layout = text.split(":")
    return Format("" if layout == "scalar" else layout, dtype, device)


def variant_from_text(params: str, formats: str) -> Variant:
    """A variant from the texts of a measurement's key; truth values become 0 and 1, which equal them.

    Raises:
        ProfileError: malformed text.
    """
    try:
        pairs = [item.partition("=") for item in params.split(",")] if params else []
        inputs, outputs = (tuple(map(_format, side.split())) for side in formats.split("->"))
    except ValueError as error:
        raise ProfileError(f"these are no formats of a variant: {formats!r}; measure again") from error
    return Variant(tuple((name, _parameter(value)) for name, _, value in pairs), inputs, outputs)


def candidate_of(key: Key) -> Candidate:
    """The candidate that a record is about, whatever its routine's source was at that time.

    Raises:
        ProfileError: today's layer kinds or routines do not know it.
    """
    try:
        found = routine(key.routine)
    except RoutineError as error:
        raise ProfileError(f"a record is about a routine that is gone: {error}") from error
    return Candidate(workload_from_json(key.workload), found, variant_from_text(key.params, key.formats))


def usable_records(records: Iterable[tuple[Key, Measurement]]) -> Iterator[Record]:
    """The successful measurements whose candidates still mean something; all others are skipped."""
    for key, measurement in records:
        if not measurement.ok:
            continue
        try:
            candidate = candidate_of(key)
        except ProfileError:
            continue  # a record of an older version of this package is no loss
        yield Record(candidate, key.threads, key.residency, measurement.median_s)
