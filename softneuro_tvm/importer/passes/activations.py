"""Formulas that exporters write out become the activations they are: sigmoid, silu, hard swish, gelu.."""

from __future__ import annotations

import math
from collections.abc import Callable

from softneuro_tvm.graph import Graph
from softneuro_tvm.importer.expressions import rebuilt
from softneuro_tvm.importer.rewriter import Rewriter
from softneuro_tvm.layers.elementwise import Argument, Expression

Entry = tuple[str, tuple[Argument, ...]]


def recognise_activations(graph: Graph) -> Graph:
    """Simplifies every elementwise expression."""
    rewriter = Rewriter(graph)
    for layer in rewriter.layers("elementwise"):
        expression = simplified(layer.attributes.expression)
        if expression != layer.attributes.expression:
            rewriter.replace(layer, rebuilt(layer, expression, layer.inputs, layer.weights))
    return rewriter.graph()


def simplified(expression: Expression) -> Expression:
    """The same function with known formulas replaced by single operators; may hold entries that nothing needs."""
    entries: list[Entry] = []
    for operator, args in expression:
        entries.append((operator, args))
        view = _View(entries)
        for rule in _RULES:
            found = rule(view)
            if found is not None:
                entries[-1] = found
    return tuple(entries)


class _View:
    """The entries so far, read as formulas; the last one is what is being simplified."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    @property
    def last(self) -> str:
        """Name of the last entry."""
        return f"t{len(self.entries) - 1}"

    def entry(self, arg: Argument) -> Entry:
        """What computes an argument; an empty operator for inputs, constants and numbers."""
        return self.entries[int(arg[1:])] if isinstance(arg, str) and arg[0] == "t" else ("", ())

    def affine(self, arg: Argument) -> tuple[Argument, float, float]:
        """(base, scale, offset) with ``arg = scale * base + offset``."""
        operator, args = self.entry(arg)
        if operator == "neg":
            base, scale, offset = self.affine(args[0])
            return base, -scale, -offset
        numbers = [value for value in args if isinstance(value, float)]
        if operator not in ("add", "sub", "mul", "div") or len(numbers) != 1:
            return arg, 1.0, 0.0
        number, is_first = numbers[0], isinstance(args[0], float)
        if operator == "div" and (is_first or number == 0):
            return arg, 1.0, 0.0
        base, scale, offset = self.affine(args[1] if is_first else args[0])
        if operator == "add":
            return base, scale, offset + number
        if operator == "sub":
            return (base, -scale, number - offset) if is_first else (base, scale, offset - number)
        factor = number if operator == "mul" else 1 / number
        return base, scale * factor, offset * factor

    def clipped(self, arg: Argument) -> tuple[Argument, float, float, float, float] | None:
        """(base, scale, offset, low, high): ``scale * base + offset``, kept between `low` and `high` if low < high."""
        inner, factor, shift = self.affine(arg)
        operator, args = self.entry(inner)
        if operator != "clip":
            return None
        base, scale, offset = self.affine(args[0])
        low, high = float(args[1]) * factor + shift, float(args[2]) * factor + shift
        return base, scale * factor, offset * factor + shift, low, high

    def product(self, arg: Argument) -> tuple[float, list[Argument]]:
        """(number, factors) with ``arg = number * product of factors``."""
        operator, args = self.entry(arg)
        if isinstance(arg, float):
            return arg, []
        if operator == "mul":
            numbers, factors = zip(*(self.product(value) for value in args), strict=True)
            return math.prod(numbers), [factor for group in factors for factor in group]
        if operator == "div" and isinstance(args[1], float) and args[1] != 0:
            number, inner = self.product(args[0])
            return number / args[1], inner
        return 1.0, [arg]


def _near(*pairs: tuple[float, float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in pairs)


def _bounds(view: _View) -> Entry | None:
    """``max(x, 0)`` -> relu; ``min(max(x, a), b)`` -> clip."""
    operator, args = view.entry(view.last)
    numbers = [value for value in args if isinstance(value, float)]
    if operator not in ("maximum", "minimum") or len(numbers) != 1:
        return None
    base = args[1] if isinstance(args[0], float) else args[0]
    inner, inner_args = view.entry(base)
    if operator == "maximum":
        return ("relu", (base,)) if numbers[0] == 0 else None
    if inner == "relu" and numbers[0] >= 0:
        return "clip", (inner_args[0], 0.0, numbers[0])
    low = [value for value in inner_args if isinstance(value, float)]
    if inner == "maximum" and len(low) == 1 and low[0] <= numbers[0]:
        return "clip", (inner_args[1] if isinstance(inner_args[0], float) else inner_args[0], low[0], numbers[0])
    return None


def _powers(view: _View) -> Entry | None:
    """``x ** 2`` -> square, ``x ** 0.5`` -> sqrt."""
    operator, args = view.entry(view.last)
    names = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal", -0.5: "rsqrt"}
    if operator == "pow" and isinstance(args[1], float) and args[1] in names:
        return names[args[1]], (args[0],)
    return None


def _sigmoid(view: _View) -> Entry | None:
    """``1 / (1 + exp(-x))`` -> sigmoid."""
    operator, args = view.entry(view.last)
    if operator == "reciprocal":
        args = (1.0, *args)
    elif operator != "div" or args[0] != 1.0:
        return None
    exponential, scale, offset = view.affine(args[1])
    inner, inner_args = view.entry(exponential)
    if inner != "exp" or (scale, offset) != (1.0, 1.0):
        return None
    base, factor, shift = view.affine(inner_args[0])
    return ("sigmoid", (base,)) if (factor, shift) == (-1.0, 0.0) else None


def _hard_sigmoid(view: _View) -> Entry | None:
    """``clip(a * x + b, 0, 1)``, and ``clip(x + 3, 0, 6) / 6``, -> hard_sigmoid."""
    found = view.clipped(view.last)
    if found is None or not _near((found[3], 0.0), (found[4], 1.0)) or (found[1], found[2]) == (1.0, 0.0):
        return None
    return "hard_sigmoid", (found[0], found[1], found[2])


def _hard_swish(view: _View) -> Entry | None:
    """``x * clip(x + 3, 0, 6) / 6`` -> hard_swish."""

    def matches(number: float, x: Argument, gate: Argument) -> bool:
        operator, args = view.entry(gate)
        if operator == "hard_sigmoid":
            return args[0] == x and _near((number, 1.0), (float(args[1]), 1 / 6), (float(args[2]), 0.5))
        found = view.clipped(gate)
        return (
            found is not None
            and found[0] == x
            and _near(
                (number * found[1], 1 / 6), (number * found[2], 0.5), (number * found[3], 0.0), (number * found[4], 1.0)
            )
        )

    return _gated(view, "hard_swish", matches)


def _silu(view: _View) -> Entry | None:
    """``x * sigmoid(x)`` -> silu."""
    return _gated(view, "silu", lambda number, x, gate: number == 1 and view.entry(gate) == ("sigmoid", (x,)))


def _gelu(view: _View) -> Entry | None:
    """``0.5 * x * (1 + erf(x / sqrt(2)))`` -> gelu."""

    def matches(number: float, x: Argument, gate: Argument) -> bool:
        inner, scale, offset = view.affine(gate)
        operator, args = view.entry(inner)
        if operator != "erf" or not _near((number * scale, 0.5), (number * offset, 0.5)):
            return False
        base, factor, shift = view.affine(args[0])
        return base == x and shift == 0 and _near((factor, math.sqrt(0.5)))

    return _gated(view, "gelu", matches)


def _gated(view: _View, name: str, matches: Callable[[float, Argument, Argument], bool]) -> Entry | None:
    """The last entry as an activation that multiplies its argument by a function of it."""
    if view.entry(view.last)[0] not in ("mul", "div"):
        return None
    number, factors = view.product(view.last)
    if len(factors) != 2:
        return None
    for x, gate in (factors, factors[::-1]):
        if matches(number, x, gate):
            return name, (x,)
    return None


_RULES = (_bounds, _powers, _sigmoid, _hard_sigmoid, _hard_swish, _silu, _gelu)
