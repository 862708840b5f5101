"""What a routine is: one way to compute one kind of layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from softneuro_tvm.device import Device
from softneuro_tvm.formats import Format
from softneuro_tvm.graph import Workload

Parameter = int | str | bool
"""Value of one routine parameter."""


@dataclass(frozen=True)
class Requirement:
    """A condition that a routine places on workload and device.

    Args:
        text: What is needed, as the user reads it after "needs": e.g. ``a 3x3 kernel with stride 1``.
        holds: The condition.
    """

    text: str
    holds: Callable[[Workload, Device], bool]


@dataclass(frozen=True)
class Variant:
    """One parameter setting of a routine and the formats of its ports.

    Args:
        params: Pairs of parameter name and value, in a fixed order.
        inputs: Format in which each activation is read.
        outputs: Format in which each output is written.
    """

    params: tuple[tuple[str, Parameter], ...]
    inputs: tuple[Format, ...]
    outputs: tuple[Format, ...]

    def __getitem__(self, name: str) -> Any:
        """Value of a parameter."""
        return dict(self.params)[name]

    @property
    def params_text(self) -> str:
        """Like ``m=4,rows=2``: the PARAMS part of a routine descriptor."""
        return ",".join(f"{key}={int(value) if isinstance(value, bool) else value}" for key, value in self.params)


class View:
    """Returned by `Routine.emit` when the output is the input's memory under another shape: nothing runs."""


VIEW = View()


@dataclass(frozen=True, eq=False)
class Nested(View):
    """Returned by `Routine.emit` when inputs and output can lie in one block of memory: nothing runs where they do.

    Args:
        kernel: Copies; runs where the memory planner cannot place them so.
        offsets: Bytes from the beginning of the whole to each part, multiples of 64. The parts are the inputs and the
            whole is the output.
        splits: True if it is the other way round: the part is the output, the whole the only input.
    """

    kernel: Any
    offsets: tuple[int, ...]
    splits: bool = False


class Routine(ABC):
    """One algorithm for one kind of layer.

    A routine file sets the class attributes and fills in the abstract methods; its name is its path below `routines`
    (``conv2d/winograd``) and is set by discovery.
    """

    name: ClassVar[str] = ""
    kind: ClassVar[str]
    """Layer kind it computes; ``*`` for every kind."""
    source: ClassVar[str]
    """Paper or system that describes the algorithm."""
    requirements: ClassVar[tuple[Requirement, ...]] = ()
    fallback: ClassVar[bool] = False
    """True if it is only worth measuring where no other routine applies."""
    is_view: ClassVar[bool] = False
    """True if `emit` returns a `View` for every variant: it takes no time, and nobody has to measure that."""

    def refusal(self, workload: Workload, device: Device) -> str | None:
        """The first requirement that fails, as text; None if the routine applies."""
        return next((f"needs {r.text}" for r in self.requirements if not r.holds(workload, device)), None)

    @abstractmethod
    def variants(self, workload: Workload, device: Device) -> Iterable[Variant]:
        """The parameter settings and formats worth measuring, most promising first."""

    @abstractmethod
    def error_bound(self, workload: Workload, variant: Variant) -> float:
        """Largest allowed max|y - reference| / max(1e-30, max|reference|) for normally distributed data."""

    @abstractmethod
    def emit(self, workload: Workload, variant: Variant, device: Device) -> Any:
        """Generates the kernel.

        Returns:
            A `tirx.PrimFunc` with one buffer argument for each input, packed weight and output, in that order, in
            their physical shapes; or an `IRModule` whose Relax function ``main`` takes inputs and weights and calls
            kernels; or a `View`.
        """

    def pack(self, workload: Workload, variant: Variant, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights as the kernel reads them, in the order of its arguments. The default passes them on by name."""
        return tuple(np.asarray(weights[key], order="C") for key in sorted(weights))

    def workspace_bytes(self, workload: Workload, variant: Variant) -> int:
        """Scratch memory that the kernel allocates while it runs, summed over threads."""
        return 0

    def in_place_inputs(self, workload: Workload, variant: Variant, device: Device) -> tuple[int, ...]:
        """Inputs whose memory the only output may share, where nobody reads them afterwards.

        To be named here, an input must have the output's format and physical shape, and the kernel must read each
        of its elements before it writes the element at the same place, and never again. The default names none.
        """
        return ()


@dataclass(frozen=True)
class Candidate:
    """One routine, at one parameter setting, for one workload."""

    workload: Workload
    routine: Routine
    variant: Variant

    @property
    def descriptor(self) -> str:
        """``DEVICE:DTYPE:LAYOUT/ALGORITHM/PARAMS`` as users of SoftNeuro know it, output layout."""
        port = self.variant.outputs[0]
        algorithm = self.routine.name.partition("/")[2]
        layout = port.layout.lower() or "scalar"
        text = f"{port.device}:{port.dtype}:{layout}/{algorithm}"
        return f"{text}/{self.variant.params_text}" if self.variant.params else text
