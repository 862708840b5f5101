"""Routine descriptors, as users of SoftNeuro know them: which candidates, and on which layers.

`GRAMMAR` in full, square brackets around what may be left out::

    DEVICE[:DTYPE][:LAYOUT][/ALGORITHM[/PARAMS]][@LAYERS]

    DEVICE     cpu
    DTYPE      element type that is written: float32
    LAYOUT     TVM layout that is written, in upper or lower case: nchw16c; `scalar` for rank 0
    ALGORITHM  name of a routine without its layer kind, or with it: winograd, conv2d/winograd
    PARAMS     parameters that must have these values, the others are free: m=4,rows=2
    LAYERS     what is separated by commas, see `softneuro_tvm.layer_scope`

A candidate is written in the same way, so that every candidate that is shown can be asked for by copying its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache

from softneuro_tvm.errors import DescriptorError, LayoutError
from softneuro_tvm.formats import parse_layout
from softneuro_tvm.routine import Candidate

GRAMMAR = "DEVICE[:DTYPE][:LAYOUT][/ALGORITHM[/PARAMS]][@LAYERS]"
_EXAMPLE = "cpu:float32:nchw8c/winograd/m=4@2..9"
_SCALAR = "scalar"
_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_DTYPE = re.compile(r"bool|b?float\d\w*|u?int\d+")
_LETTER = re.compile(r"(\d+[a-z])|([a-z])")
_LAYER = re.compile(r'"[^"]+"|[^",]+')


@dataclass(frozen=True)
class Descriptor:
    """Candidates that have something in common; what is empty is free.

    Args:
        device: Kind of device.
        dtype: Element type of the first output.
        layout: Layout of the first output, in lower case.
        algorithm: Routine without or with its layer kind.
        params: Pairs of parameter name and value, as text.
        layers: What LAYERS lists, as written.
        text: What it was parsed from; for messages.
    """

    device: str
    dtype: str = ""
    layout: str = ""
    algorithm: str = ""
    params: tuple[tuple[str, str], ...] = ()
    layers: tuple[str, ...] = ()
    text: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        where = ":".join(part for part in (self.device, self.dtype, self.layout) if part)
        params = ",".join(f"{key}={value}" for key, value in self.params)
        layers = f"@{','.join(self.layers)}" if self.layers else ""
        return "/".join(part for part in (where, self.algorithm, params) if part) + layers

    def admits(self, routine: str, descriptor: str) -> bool:
        """Whether a candidate is one of those described; its layer is not looked at.

        Args:
            routine: Name of its routine, e.g. ``conv2d/winograd``.
            descriptor: As `Candidate.descriptor` writes it.
        """
        other = parse(descriptor)
        return (
            self.device == other.device
            and self.dtype in ("", other.dtype)
            and self.layout in ("", other.layout)
            and self.algorithm in ("", other.algorithm, routine)
            and set(self.params) <= set(other.params)
        )

    def matches(self, candidate: Candidate) -> bool:
        """Whether a candidate is one of those described; its layer is not looked at."""
        return self.admits(candidate.routine.name, candidate.descriptor)

    def error(self, part: str, message: str) -> DescriptorError:
        """An error that points at a part of the text."""
        text = self.text or str(self)
        start = text.find("@") if part in self.layers else 0
        found = re.compile(rf"(?<!\w){re.escape(part)}", re.IGNORECASE).search(text, start)
        return DescriptorError(text, found.start() if found else 0, message)


@lru_cache(maxsize=1 << 16)
def parse(text: str) -> Descriptor:
    """Reads a routine descriptor.

    Raises:
        DescriptorError: it is malformed; points at the place.
    """
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text

    def parse(self) -> Descriptor:
        routine, at, layers = self.text.partition("@")
        found = self._routine(routine)
        if at:
            found = replace(found, layers=self._layers(len(routine) + 1, layers))
        return replace(found, text=self.text)

    def _refuse(self, position: int, message: str) -> DescriptorError:
        return DescriptorError(self.text, position, f"{message}; write it {GRAMMAR}, e.g. {_EXAMPLE}")

    def _routine(self, text: str) -> Descriptor:
        where, *rest = text.split("/")
        params: tuple[tuple[str, str], ...] = ()
        position = len(where) + 1
        if rest and "=" in rest[-1]:
            params = self._params(len(text) - len(rest[-1]), rest.pop())
            if not rest:
                raise self._refuse(position, f"an algorithm must stand before the parameters {text[position:]!r}")
        for part in rest:
            if not _NAME.fullmatch(part):
                raise self._refuse(position, f"{part!r} is no name of an algorithm")
            position += len(part) + 1
        device, dtype, layout = self._where(where)
        return Descriptor(device, dtype, layout, "/".join(rest), params)

    def _where(self, text: str) -> tuple[str, str, str]:
        device, *rest = text.split(":")
        if not _NAME.fullmatch(device):
            raise self._refuse(0, f"{device!r} is no device" if device else "a device must come first, e.g. cpu")
        dtype = layout = ""
        position = len(device) + 1
        for part in rest:
            if layout:
                raise self._refuse(position, f"nothing may follow the layout {layout!r} but /ALGORITHM")
            if not dtype and _DTYPE.fullmatch(part):
                dtype = part
            elif part.lower() == _SCALAR or _is_layout(part):
                layout = part.lower()
            else:
                raise self._refuse(position, f"{part!r} is neither an element type nor a layout")
            position += len(part) + 1
        return device, dtype, layout

    def _params(self, position: int, text: str) -> tuple[tuple[str, str], ...]:
        found: dict[str, str] = {}
        for item in text.split(","):
            key, equals, value = item.partition("=")
            if not (_NAME.fullmatch(key) and equals and value) or "=" in value:
                raise self._refuse(position, f"{item!r} is not of the form NAME=VALUE")
            if key in found:
                raise self._refuse(position, f"the parameter {key!r} is given twice")
            found[key] = value
            position += len(item) + 1
        return tuple(found.items())

    def _layers(self, position: int, text: str) -> tuple[str, ...]:
        found = []
        end = position + len(text)
        while match := _LAYER.match(self.text, position):
            found.append(match[0])
            position = match.end()
            if position == end:
                return tuple(found)
            if self.text[position] != ",":
                break
            position += 1
        raise self._refuse(position, "a name of a layer, 2..9, a pattern like conv* or a layer kind must stand here")


def shown_layout(layout: str) -> str:
    """A layout as TVM writes it: ``nchw16c`` becomes ``NCHW16c``."""
    return layout if layout == _SCALAR else _LETTER.sub(lambda match: match[1] or match[2].upper(), layout.lower())


def _is_layout(text: str) -> bool:
    """Whether this is a TVM layout in any case."""
    try:
        return bool(parse_layout(shown_layout(text)))
    except LayoutError:
        return False
