"""One tuning run of the soak test and what is checked afterwards, each in a process of its own.

`soak_tuning.py tune JOB.json` tunes, builds, verifies and times a network on boards, and writes the plan;
`soak_tuning.py check JOB.json` compares the plan with those of undisturbed runs, and writes what it found.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import softneuro_tvm as sn
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.cost_model import CostModel
from softneuro_tvm.device import from_json
from softneuro_tvm.errors import ProfileError, SoftNeuroError
from softneuro_tvm.finalists import play_finals
from softneuro_tvm.fingerprint import fingerprint
from softneuro_tvm.measurement import Measurement
from softneuro_tvm.pipeline import TuneOptions
from softneuro_tvm.plan import Plan
from softneuro_tvm.profiler import Profiler, ProfileStore, SilentObserver, residency_of
from softneuro_tvm.profiler.keys import NETWORK
from softneuro_tvm.reference import sample_inputs
from softneuro_tvm.remote import Board
from softneuro_tvm.remote.module import on_board
from softneuro_tvm.routine import Candidate
from softneuro_tvm.selection import select
from softneuro_tvm.tuner import Network, Tuner, TunerOptions

STARTED = "measuring begins"
"""What the log says once boards have measured something: from then on harm may be done."""
FAULTS = ("aborting", "exiting", "hanging")
"""Ends of the names of routines that go wrong."""

logger = logging.getLogger("soak")


@dataclass(frozen=True)
class Job:
    """A tuning run.

    Args:
        model: As for `softneuro_tvm.load`.
        threads: That kernels use.
        tracker_port: On this machine.
        key: Of the boards.
        folder: For its store, plan and findings.
        connect_timeout_s: As for `Board`.
        session_timeout_s: As for `Board`.
        patience_s: As for `Board`.
    """

    model: str
    threads: int
    tracker_port: int
    key: str
    folder: str
    connect_timeout_s: float
    session_timeout_s: float
    patience_s: float

    @property
    def board(self) -> Board:
        """Where to measure."""
        limits = (self.connect_timeout_s, self.session_timeout_s, self.patience_s)
        return Board(("127.0.0.1", self.tracker_port), self.key, None, *limits)

    def path(self, name: str) -> Path:
        """A file of the run."""
        return Path(self.folder) / name

    def save(self) -> Path:
        """Writes the job down for the process that does it."""
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        self.path("job.json").write_text(json.dumps(asdict(self)))
        return self.path("job.json")


@dataclass(frozen=True)
class Findings:
    """What is true of a run that has ended.

    Args:
        candidates: That there are.
        statuses: How often each status was recorded.
        problems: What should not be so; empty if all is well.
    """

    candidates: int
    statuses: Mapping[str, int]
    problems: Sequence[str]


class _Announcer(SilentObserver):
    """Says in the log when measuring begins."""

    begun = False

    def measured(self, candidate: Candidate, measurement: Measurement) -> None:
        """Said once."""
        if not self.begun:
            self.begun = True
            logger.info(STARTED)


def tune(job: Job) -> None:
    """Tunes from an empty store, and takes the result to the boards."""
    model, board = sn.load(job.model), job.board
    options = TuneOptions(exhaustive=True)
    device, store = sn.host_device(job.threads), job.path("store.sqlite")
    plan = sn.tune(model, device=device, store=store, observer=_Announcer(), options=options, board=board)
    plan.save(job.path("plan.json"))
    logger.info("measuring is over")
    with on_board(board, module := sn.build(model, plan)) as there:
        agreement = sn.verify(model, plan, there)
        there.time(there.tensors([], sample_inputs(model.graph)), repeat=3)
    module.export(job.path("network.so"))
    logger.info("relative error %.1e", agreement.error)


class _Replay(Profiler):
    """Has recorded measurements in place of taking any."""

    recorded: Mapping[Candidate, Measurement]

    def measure(self, candidates: Iterable[Candidate], deadline_s: float = math.inf) -> None:
        """Looks candidates up in what was recorded.

        Raises:
            ProfileError: one is asked for again, which the recorded run saw no reason for.
        """
        for candidate in candidates:
            if candidate in self.results:
                raise ProfileError(f"{candidate.descriptor} would be measured again, though all its samples are known")
            self.results[candidate] = self.recorded[candidate]
            self.measured += 1


def check(job: Job) -> Findings:
    """Compares a run with undisturbed ones; needs the boards, and measures nothing."""
    model, text = sn.load(job.model), job.path("plan.json").read_text()
    plan, problems = Plan.from_json(text), list[str]()
    device, graph = from_json(plan.device), model.graph
    candidates = enumerate_candidates(graph, device)
    with ProfileStore(job.path("store.sqlite"), fingerprint=fingerprint(device)) as store:
        with Profiler(device, store, residency=residency_of(graph.weight_bytes, device)) as profiler:
            profiler.look_up(candidates.all())
            results = dict(profiler.results)
        networks = [row for row in store.rows() if row.key.routine == NETWORK]
    for candidate in candidates.all():
        found, name = results.get(candidate), f"{candidate.routine.name} for {candidate.workload.digest}"
        expected = ("crash", "timeout") if candidate.routine.name.rpartition("/")[2] in FAULTS else ("ok",)
        if found is None:
            problems.append(f"{name} ({candidate.variant.params_text}) has no record")
        elif found.status not in expected:
            problems.append(f"{name} ({candidate.variant.params_text}) is recorded as {found.status}: {found.message}")
    options = TuneOptions(exhaustive=True, locked=True)
    tuned_for = sn.host_device(job.threads)
    again = sn.tune(model, device=tuned_for, store=job.path("store.sqlite"), options=options, board=job.board)
    if again.to_json() != text:
        problems.append("a run that measures nothing makes another plan from the same store")
    with ProfileStore(job.path("replayed.sqlite"), fingerprint=fingerprint(device)) as fresh:
        fresh.absorb(networks)
        replay = _Replay(device, fresh, residency=residency_of(graph.weight_bytes, device))
        replay.recorded = results
        exhaustive = TunerOptions(exhaustive=True)
        tuner = Tuner(Network(graph, candidates), replay, lambda: CostModel.for_device(device), options=exhaustive)
        tuning = tuner.run()
        chosen = select(graph, tuner.network.candidates, replay.results, device, allowed=tuner.network.allowed)
        final = play_finals(tuner.network, replay.results, device, chosen, fresh, locked=True)
    if replace(final, tuning={**plan.tuning, **tuning.summary}).to_json() != text:
        problems.append("recorded times, replayed into an undisturbed run, make another plan")
    statuses = Counter(found.status for found in results.values())
    return Findings(len(candidates.all()), dict(sorted(statuses.items())), problems)


def main() -> None:
    """Does what the command line says."""
    what, path = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING, format="%(relativeCreated)d %(name)s: %(message)s")
    for name in ("softneuro_tvm", "soak"):
        logging.getLogger(name).setLevel(logging.INFO)
    job = Job(**json.loads(Path(path).read_text()))
    try:
        if what == "tune":
            tune(job)
        else:
            job.path("findings.json").write_text(json.dumps(asdict(check(job))))
    except SoftNeuroError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
