"""Every error this package raises on purpose. Each message says what was wrong, where, and what to do next."""

from __future__ import annotations


class SoftNeuroError(Exception):
    """Base of all errors that a caller is expected to show to a user."""


class ModelError(SoftNeuroError):
    """A model file is missing, corrupt, or cannot be imported."""


class UnsupportedOperatorError(ModelError):
    """A model holds operators that no front end understands.

    Args:
        operators: Pairs of operator type and node name.
    """

    def __init__(self, operators: list[tuple[str, str]]) -> None:
        self.operators = tuple(operators)
        listed = "\n".join(f"  {kind} (node {name!r})" for kind, name in operators)
        super().__init__(
            f"{len(operators)} node(s) use operators that TVM's ONNX front end does not support:\n{listed}\n"
            "Replace them in the exporter, or cut the model before them."
        )


class DynamicShapeError(ModelError):
    """A model input has a dimension without a value."""


class LayoutError(SoftNeuroError):
    """A layout string is malformed, or does not fit a tensor."""


class DeviceError(SoftNeuroError):
    """A device or target is unknown, or lacks what is asked of it."""


class RoutineError(SoftNeuroError):
    """A routine is unknown, or was used for a layer that it refuses."""


class RoutineImportError(RoutineError):
    """A module that should hold routines could not be imported."""


class ProfileError(SoftNeuroError):
    """Measuring failed as a whole (a single failed candidate is a row, not an error)."""


class StoreError(ProfileError):
    """The profile store cannot be opened or written."""


class BoardError(ProfileError):
    """A board, or the tracker that knows boards, cannot be reached or refuses."""


class SessionLostError(BoardError):
    """A session with a board ended early, and nothing that ran in it is to blame: it is worth another try."""


class BoardsLostError(BoardError):
    """No board has answered for so long that measuring was given up; what was measured is kept."""


class ClusterError(ProfileError):
    """Dask's scheduler cannot be reached, or its workers cannot compile for this machine."""


class OptionError(SoftNeuroError):
    """An option of the command line cannot be read."""


class RestrictionError(SoftNeuroError):
    """A restriction of the search space cannot hold, or would have no effect."""


class DescriptorError(RestrictionError):
    """A routine descriptor cannot be read, or names something that does not exist.

    Args:
        text: The descriptor as it was written.
        position: Where in it the trouble starts, from 0.
        message: What is wrong there, and what to write instead.
    """

    def __init__(self, text: str, position: int, message: str) -> None:
        self.text, self.position = text, position
        super().__init__(f"routine descriptor {text!r}: {message}\n  {text}\n  {' ' * position}^")


class SelectionError(SoftNeuroError):
    """No combination of routines computes the network."""


class PlanError(SoftNeuroError):
    """A plan file is malformed, or does not belong to the model it is used with."""


class BuildError(SoftNeuroError):
    """A module could not be built, exported or loaded."""


class VerificationError(BuildError):
    """A built module disagrees with the reference runtime."""
