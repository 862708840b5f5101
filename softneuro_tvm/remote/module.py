"""A built network on a board: the part of `softneuro_tvm.runtime.Module` that running and timing need."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from softneuro_tvm.errors import BuildError
from softneuro_tvm.remote.board import Board
from softneuro_tvm.remote.site import Site
from softneuro_tvm.runtime import Module, checked_inputs
from softneuro_tvm.step_times import StepTime


@contextmanager
def on_board(board: Board, module: Module) -> Iterator[RemoteModule]:
    """A module, fresh from `build`, on the board that it was tuned on.

    Args:
        board: Where.
        module: What to run there.

    Raises:
        BoardError: the board does not answer, or cannot load the library.
    """
    with Site(board, known=True) as site:
        path = site.workers.folder / "network.so"
        module.export(path)
        yield RemoteModule(site, path, module.manifest)


class RemoteModule:
    """A network that runs on a board; each call is a session that sends the library.

    Args:
        site: The board.
        path: The library.
        manifest: What the module says about itself; the board is asked by default.

    Attributes:
        manifest: As above.
        threads: Threads that it was tuned for and runs with.

    Raises:
        BoardError: the board does not answer, or cannot load the library.
        BuildError: there is no such file.
    """

    def __init__(self, site: Site, path: str | Path, manifest: Mapping[str, Any] | None = None) -> None:
        self.site, self.path = site, Path(path).resolve()
        if not self.path.is_file():
            raise BuildError(f"there is no module {str(path)!r}; make one with `softneuro-tvm tune`")
        self.manifest = json.loads(site.run([self.path], ()).manifests[0]) if manifest is None else manifest
        self.threads = int(self.manifest["device"]["threads"])

    def tensors(self, inputs: Sequence[np.ndarray], named: Mapping[str, np.ndarray] | None = None) -> list[np.ndarray]:
        """Checks inputs.

        Raises:
            BuildError: wrong number, name, shape or type of inputs.
        """
        return checked_inputs(self.manifest, inputs, named)

    def run(self, tensors: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs on arrays that `tensors` checked.

        Raises:
            BoardError: the session failed.
        """
        return self.site.run([self.path], tensors).outputs[0]

    def time(self, tensors: Sequence[np.ndarray], repeat: int = 10, number: int = 1) -> list[float]:
        """Measures the network on the board.

        Args:
            tensors: From `tensors`.
            repeat: Samples taken.
            number: Runs that one sample averages.

        Returns:
            Seconds for each sample.

        Raises:
            BoardError: the session failed.
        """
        return list(self.site.run([self.path], tensors, rounds=1, repeat=repeat, number=number).samples_s[0])

    def time_steps(self, tensors: Sequence[np.ndarray], repeat: int = 20) -> list[StepTime]:
        """Measures each kernel call within the network, on the board.

        Args:
            tensors: From `tensors`.
            repeat: Runs.

        Raises:
            BoardError: the session failed.
            BuildError: the module was built before modules kept count of that.
        """
        return self.site.run([self.path], tensors, profiled=repeat).steps[0]
