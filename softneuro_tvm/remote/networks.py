"""Runs and times whole networks on a board; runs in a forked child that may be ended."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

import tvm

from softneuro_tvm.elf_header import machine_of
from softneuro_tvm.errors import BoardError, SessionLostError
from softneuro_tvm.remote.connection import BoardSession, is_ours, last_line
from softneuro_tvm.remote.loss import cause_of_loss
from softneuro_tvm.remote.messages import Connected, NetworkRequest, NetworkResult
from softneuro_tvm.runtime import MANIFEST_FUNCTION
from softneuro_tvm.step_times import TIMES_FUNCTION, StepTime, blank_times, time_steps

_TURN_S = 0.05
_MOST = 50


def run_networks(request: NetworkRequest, inputs: str) -> Iterator[Connected | NetworkResult]:
    """Runs each network once, then times them in turns.

    Args:
        request: What to run.
        inputs: File with the pickled list of input arrays; without any, the networks do not run.

    Raises:
        SessionLostError: the session ended early, and the networks are not to blame.
        BoardError: no connection, or a network ended the session.
        BuildError: a library cannot be run there.
    """
    with open(inputs, "rb") as stream:
        arrays = pickle.load(stream)
    session = BoardSession(request.board)
    yield Connected(session.name, session.facts, session.threads)
    try:
        networks = [_Network(session, path) for path in request.libraries]
        manifests = [network.manifest for network in networks]
        outputs = [network.run(arrays) for network in networks] if arrays else []
        samples: list[list[float]] = [[] for _ in networks]
        for _ in range(request.rounds):
            for own, network in zip(samples, networks, strict=True):
                own += network.time(request.repeat, request.number)
        steps = [network.time_steps(request.profiled) for network in networks] if request.profiled else []
        yield NetworkResult(session.name, manifests, outputs, [tuple(own) for own in samples], steps)
    except Exception as error:  # TVM raises many types
        if is_ours(error):
            raise
        lost = not session.alive and cause_of_loss(str(error), bool(session.facts)) == "board"
        kind = SessionLostError if lost else BoardError
        raise kind(f"the board at {session.name} failed to run the network: {last_line(error)}") from error


class _Network:
    """A network on a board."""

    def __init__(self, session: BoardSession, path: str) -> None:
        machine = machine_of(path) or session.facts.get("machine", "")
        self.session = session
        self.library = session.library(path, machine)
        self.vm = tvm.relax.VirtualMachine(self.library, session.cpu)
        self.manifest = str(self.vm[MANIFEST_FUNCTION]())
        self.threads = int(json.loads(self.manifest)["device"]["threads"])

    def run(self, arrays: list[Any]) -> list[Any]:
        """Sends inputs, runs once, fetches outputs."""
        self.session.use_threads(self.threads)
        self.vm.set_input("main", *map(self.session.send, arrays))
        self.vm.invoke_stateful("main")
        found = self.vm.get_outputs("main")
        many = [found] if hasattr(found, "numpy") else list(found)
        assert len(many) == len(json.loads(self.manifest)["outputs"])
        return [tensor.numpy() for tensor in many]

    def time(self, repeat: int, number: int) -> list[float]:
        """Seconds of single runs."""
        self.session.use_threads(self.threads)
        if not repeat:
            repeat = min(_MOST, max(2, int(_TURN_S / self._seconds(1, 1)[0])))
        return self._seconds(repeat, number)

    def time_steps(self, runs: int) -> list[StepTime]:
        """Times of single kernel calls."""
        manifest = json.loads(self.manifest)
        count = self.session.send(blank_times(manifest))
        collect = self.library.get_function(TIMES_FUNCTION, True)
        return time_steps(manifest, collect, count, lambda: self.vm.invoke_stateful("main"), runs)

    def _seconds(self, repeat: int, number: int) -> list[float]:
        timer = self.vm.module.time_evaluator("invoke_stateful", self.session.cpu, number=number, repeat=repeat)
        return [max(1e-9, seconds) for seconds in timer("main").results]
