"""Rewriting of elementwise expressions: substitution, pruning, and reading them as formulas. Needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from softneuro_tvm.graph import Layer
from softneuro_tvm.layers.elementwise import Argument, ElementwiseAttributes, Expression


def substitute(expression: Expression, names: Mapping[str, Argument]) -> Expression:
    """Replaces arguments by name."""
    return tuple(
        (operator, tuple(names.get(arg, arg) if isinstance(arg, str) else arg for arg in args))
        for operator, args in expression
    )


def uses(expression: Expression, name: str) -> list[int]:
    """Numbers of the entries that read an argument, once for each occurrence."""
    return [index for index, (_, args) in enumerate(expression) for arg in args if arg == name]


def without(expression: Expression, places: Sequence[int], names: Mapping[str, Argument]) -> Expression:
    """Takes entries out and renumbers the others.

    Args:
        expression: Entries.
        places: Numbers of the entries that go.
        names: What stands for the results of those entries that others read.
    """
    kept = [index for index in range(len(expression)) if index not in places]
    renumbered = {f"t{index}": f"t{place}" for place, index in enumerate(kept)}
    return substitute(tuple(expression[index] for index in kept), {**renumbered, **names})


def pruned(expression: Expression, result: str) -> tuple[Expression, dict[str, str]]:
    """Leaves out the entries that a result does not need.

    Args:
        expression: Entries.
        result: The entry (``t3``) that is wanted.

    Returns:
        The remaining entries, renumbered, and the new names of the old entries.
    """
    needed, waiting = set[int](), [int(result[1:])]
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            waiting += [int(arg[1:]) for arg in expression[index][1] if isinstance(arg, str) and arg[0] == "t"]
    names = {f"t{index}": f"t{place}" for place, index in enumerate(sorted(needed))}
    return substitute(tuple(expression[index] for index in sorted(needed)), names), names


def rebuilt(layer: Layer, expression: Expression, inputs: Sequence[str], weights: Mapping[str, np.ndarray]) -> Layer:
    """An elementwise layer with another expression; inputs and constants that it does not use are left out.

    Args:
        layer: Gives name and output.
        expression: Over ``x<i>`` (`inputs`) and ``w<i>`` (`weights`); the last entry is the result.
        inputs: Tensors; one may occur twice.
        weights: Constants.
    """
    expression, _ = pruned(expression, f"t{len(expression) - 1}")
    named = dict.fromkeys(arg for _, args in expression for arg in args if isinstance(arg, str))
    tensors = list(dict.fromkeys(inputs[int(arg[1:])] for arg in named if arg[0] == "x"))
    constants = [arg for arg in named if arg[0] == "w"]
    names: dict[str, Argument] = {arg: f"x{tensors.index(inputs[int(arg[1:])])}" for arg in named if arg[0] == "x"}
    names |= {arg: f"w{place}" for place, arg in enumerate(constants)}
    kept = {f"w{place}": weights[arg] for place, arg in enumerate(constants)}
    attributes = ElementwiseAttributes(substitute(expression, names))
    return Layer(layer.name, "elementwise", attributes, tuple(tensors), layer.outputs, kept)
