"""Numbers as people read them."""

from __future__ import annotations

import math
from dataclasses import dataclass

_DASH = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_LABELS = {"accuracy": "sum of relative errors", "seconds": "time taken"}


@dataclass(frozen=True)
class Times:
    """Writes times of one network in one unit with a fixed number of decimals, so that columns line up.

    Args:
        unit: ``ms`` or ``\N{MICRO SIGN}s``.
        scale: Units in a second.
        decimals: Digits behind the point.
    """

    unit: str
    scale: float
    decimals: int

    @staticmethod
    def of(total_s: float) -> Times:
        """The unit that suits a network of this total time."""
        if total_s < 2e-4:
            return Times("\N{MICRO SIGN}s", 1e6, 2)
        return Times("ms", 1e3, 1 if total_s >= 10 else 2 if total_s >= 0.3 else 3)

    def __call__(self, seconds: float) -> str:
        """The number alone, without the unit."""
        if not math.isfinite(seconds):
            return _DASH
        if seconds == 0:
            return "0"
        value, least = seconds * self.scale, 10.0**-self.decimals
        if 0 < value < least / 2:
            return f"<{least:.{self.decimals}f}"
        return f"{value:.{self.decimals}f}"

    def more(self, seconds: float) -> str:
        """A difference, with its sign."""
        if not math.isfinite(seconds):
            return _DASH
        text = self(abs(seconds))
        is_zero = text.startswith("<") or not float(text)
        return "0" if is_zero else f"{'+' if seconds > 0 else _MINUS}{text}"

    def full(self, seconds: float) -> str:
        """Number and unit."""
        return f"{self(seconds)} {self.unit}"


def percent(share: float, decimals: int = 1) -> str:
    """A share, as percent."""
    return f"{share * 100:.{decimals}f}\N{NO-BREAK SPACE}%" if math.isfinite(share) else _DASH


def error(value: float) -> str:
    """A relative error."""
    return "0" if value == 0 else f"{value:.1e}" if math.isfinite(value) else "unknown"


def size(value: float) -> str:
    """Bytes in the unit that gives one to three digits before the point."""
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def quantity(name: str, value: object) -> str:
    """A value by what its name says it is: ``..._bytes``, ``..._s``, a count, or something else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if name.endswith("_bytes"):
        return size(value)
    if name.endswith(("_s", "seconds")):
        return Times.of(value).full(value) if value < 1 else f"{value:.3g} s"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def label(name: str) -> str:
    """A key as people read it: without underscores and unit."""
    if name in _LABELS:
        return _LABELS[name]
    for suffix in ("_bytes", "_s"):
        name = name.removesuffix(suffix)
    return name.replace("_", " ")


def shortened(text: str, length: int) -> str:
    """At most so many characters; the beginning goes, because names of layers differ at their ends."""
    if len(text) <= length:
        return text
    return f"\N{HORIZONTAL ELLIPSIS}{text[len(text) - length + 1 :].lstrip('.')}"
