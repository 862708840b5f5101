"""Runs and times whole networks on a board; runs in a forked child that may be ended."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

import tvm

from softneuro_tvm.elf_header import machine_of
from softneuro_tvm.errors import BoardError
from softneuro_tvm.profiler.messages import Limit
from softneuro_tvm.remote.connection import BoardSession, is_ours, last_line
from softneuro_tvm.remote.messages import Connected, NetworkRequest, NetworkResult
from softneuro_tvm.runtime import MANIFEST_FUNCTION

_TURN_S = 0.05
_MOST = 50


def run_networks(request: NetworkRequest, inputs: str) -> Iterator[Connected | NetworkResult | Limit]:
    """Runs each network once, then times them in turns.

    Args:
        request: What to run.
        inputs: File with the pickled list of input arrays; without any, the networks do not run.

    Raises:
        BoardError: no connection, or the session ended early.
        BuildError: a library cannot be run there.
    """
    with open(inputs, "rb") as stream:
        arrays = pickle.load(stream)
    session = BoardSession(request.board)
    yield Connected(session.name, session.facts)
    try:
        networks = [_Network(session, path) for path in request.libraries]
        manifests = [network.manifest for network in networks]
        outputs = [network.run(arrays) for network in networks] if arrays else []
        yield Limit(session.left_s)  # a sign of life after what takes longest
        samples: list[list[float]] = [[] for _ in networks]
        for _ in range(request.rounds):
            for own, network in zip(samples, networks, strict=True):
                own += network.time(request.repeat, request.number)
        yield NetworkResult(session.name, manifests, outputs, [tuple(own) for own in samples])
    except Exception as error:  # TVM raises many types
        if is_ours(error):
            raise
        raise BoardError(f"the board at {session.name} failed to run the network: {last_line(error)}") from error


class _Network:
    """A network on a board."""

    def __init__(self, session: BoardSession, path: str) -> None:
        machine = session.facts.get("machine") or machine_of(path) or ""
        self.session = session
        self.vm = tvm.relax.VirtualMachine(session.library(path, machine), session.cpu)
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

    def _seconds(self, repeat: int, number: int) -> list[float]:
        timer = self.vm.module.time_evaluator("invoke_stateful", self.session.cpu, number=number, repeat=repeat)
        return [max(1e-9, seconds) for seconds in timer("main").results]
