"""What the importer knows about one Relax binding while it turns a function into layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(eq=False)
class Part:
    """A binding seen as a layer.

    Args:
        kind: Name of the layer kind.
        attributes: Instance of the kind's `Attributes`.
        inputs: Relax variables of the activations.
        weights: Constants by name.
    """

    kind: str
    attributes: Any
    inputs: tuple[Any, ...]
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(eq=False)
class Node:
    """A binding that computes something.

    Args:
        binding: Relax binding.
        reads: Variables that the binding reads, aliases resolved.
        name: After the model's node, unique; empty for a tied value that the model does not return.
        part: The layer it becomes; None if it falls through to TVM.
        tied: True if the value is no tensor of known shape, so that only nodes of the same layer can read it.
        symbolic: True if shapes are involved that are known only when the model runs.
    """

    binding: Any
    reads: tuple[Any, ...]
    name: str
    part: Part | None = None
    tied: bool = False
    symbolic: bool = False

    @property
    def var(self) -> Any:
        """The variable that it binds."""
        return self.binding.var

    @property
    def inputs(self) -> tuple[Any, ...]:
        """Variables that it needs, as a layer or as a binding."""
        return self.part.inputs if self.part else self.reads
