"""Tunes over RPC while boards, their tracker and kernels are killed at random, and checks that nothing comes of it.

Two boards on this machine (one runs the server in Python, one that in C++) are found through a tracker; what is killed
is started again after some seconds. Models are tuned from empty stores, every candidate measured, one run after the
other until the time is over; among the candidates are some that crash, end their process, or hang. What is killed in
which order is decided by the seed. Afterwards, without any disturbance, it is checked for each run that it succeeded,
that each candidate has a record, and the right one, that the store is sound, that no process is left, and that
undisturbed runs make the same plan from what was recorded. Exit code 1: something of that does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from soak_chaos import SIGNALS, WEIGHTS, Chaos
from soak_processes import MARK, Supervised, free_port, left_behind, wait_until
from soak_routines._fault import ENVIRONMENT_VARIABLE
from soak_tuning import FAULTS, STARTED, Findings, Job

from softneuro_tvm.board.compiling import PROGRAM, build_server
from softneuro_tvm.cli.tables import print_json, table
from softneuro_tvm.errors import BoardError, SoftNeuroError
from softneuro_tvm.files import write_atomically
from softneuro_tvm.object_cache import ENVIRONMENT_VARIABLE as OBJECTS
from softneuro_tvm.remote.tracker import summary

_KEY = "soak"
_SERVERS, _RUN = "servers", "run"
_START_S = 60.0
_TRACKER = "import sys, tvm.rpc.tracker as t; t.PopenTrackerServerState('127.0.0.1', *map(int, sys.argv[1:]))"
"""TVM's tracker in a single process: its own program leaves a part of it behind when it is killed."""
_REACTIONS = {
    "sessions lost, not by their kernels": "ended early, by else",
    "sessions ended by their kernels": "ended early, by its kernel",
    "no board answered": "no session: ",
    "networks run again": "is begun again",
    "candidates given up": "a candidate is given up",
}
"""What runs say in their logs."""


@dataclass(frozen=True)
class Options:
    """How to soak.

    Args:
        folder: For everything that is written.
        seed: Decides what is killed.
        minutes: For which runs are disturbed; the last one is finished in peace.
        models: Tuned in turns.
        threads: That kernels use.
        mean_s: Seconds between two deeds, on average.
        longest_stop_s: Processes that are stopped go on after this time, at most.
        longest_pause_s: Servers that were killed are started again after this time, at most.
        faults: Which routines go wrong, see `soak_tuning.FAULTS`.
        connect_timeout_s: As for `softneuro_tvm.Board`.
        session_timeout_s: As for `softneuro_tvm.Board`.
        patience_s: As for `softneuro_tvm.Board`.
    """

    folder: Path
    seed: int = 0
    minutes: float = 10.0
    models: Sequence[str] = ("zoo:digits",)
    threads: int = 1
    mean_s: float = 4.0
    longest_stop_s: float = 25.0
    longest_pause_s: float = 6.0
    faults: Sequence[str] = FAULTS
    connect_timeout_s: float = 10.0
    session_timeout_s: float = 60.0
    patience_s: float = 120.0


@dataclass
class Run:
    """A tuning run.

    Args:
        model: What was tuned.
        seconds: That it took.
        exit_code: Of its process.
        findings: Of the checks afterwards.
        reactions: What it did about what was done to it.
        problems: What should not be so, findings included.
    """

    model: str
    seconds: float
    exit_code: int
    findings: Findings | None = None
    reactions: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What came of it.

    Args:
        seed: As asked for.
        seconds: For which runs were disturbed.
        deeds: What was done: victim, signal and how often; the signal is "" where there was no such process.
        starts: How often each server was started.
        runs: The tuning runs.
        problems: What should not be so, and belongs to no run.
    """

    seed: int
    seconds: float
    deeds: Sequence[tuple[str, str, int]]
    starts: dict[str, int]
    runs: Sequence[Run]
    problems: Sequence[str]

    @property
    def ok(self) -> bool:
        """Whether all is as it should be."""
        return not self.problems and not any(run.problems for run in self.runs)


def soak(options: Options, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Runs the test.

    Args:
        options: How.
        tell: Is told about progress.

    Raises:
        SoftNeuroError: the server cannot be compiled.
        TimeoutError: the servers do not start.
    """
    environment = _environment(options)
    servers, tracker = _start_servers(options, {**environment, MARK: _SERVERS})
    chaos = Chaos(options.seed, servers, tracker, options.mean_s, options.longest_stop_s)
    runs: list[Run] = []
    jobs: list[Job] = []
    try:
        while chaos.loose_s < 60 * options.minutes:
            model = options.models[len(runs) % len(options.models)]
            limits = (options.connect_timeout_s, options.session_timeout_s, options.patience_s)
            job = Job(model, options.threads, tracker.port, _KEY, str(options.folder / f"run{len(runs)}"), *limits)
            _wait_for_boards(tracker, servers)
            runs.append(_tune(job, environment, chaos, 60 * options.minutes))
            jobs.append(job)
            tell(f"run {len(runs)}: {model}, {runs[-1].seconds:.0f} s, exit code {runs[-1].exit_code}")
            if runs[-1].exit_code:
                break
        chaos.end()
        _wait_for_boards(tracker, servers)
        for run, job in zip(runs, jobs, strict=True):
            _check(run, job, environment)
            tell(f"checked: {run.findings.statuses if run.findings else 'failed'}, {len(run.problems)} problem(s)")
    finally:
        chaos.end()
        for server in (*servers, tracker):
            server.end()
    problems = [f"left behind by the servers: {each}" for each in left_behind(_SERVERS)]
    deeds = [(victim, signal, count) for (victim, signal), count in sorted(chaos.counts.items())]
    starts = {server.name: server.starts for server in (*servers, tracker)}
    return Report(options.seed, chaos.loose_s, deeds, starts, runs, problems)


def _environment(options: Options) -> dict[str, str]:
    """Environment variables of all processes: where routines that go wrong are found, and kernels are cached."""
    site = options.folder / "site"
    description = site / "soak_routines-1.dist-info"
    description.mkdir(parents=True)
    (description / "METADATA").write_text("Metadata-Version: 2.1\nName: soak_routines\nVersion: 1\n")
    (description / "entry_points.txt").write_text("[softneuro_tvm.routines]\nsoak = soak_routines\n")
    path = [str(site), str(Path(__file__).parent), *(entry or os.getcwd() for entry in sys.path)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        ENVIRONMENT_VARIABLE: ",".join(options.faults),
        OBJECTS: str(options.folder / "objects"),
    }


def _start_servers(options: Options, environment: dict[str, str]) -> tuple[list[Supervised], Supervised]:
    """Two boards and their tracker."""
    programs = {
        "server in Python": [sys.executable, "-m", "softneuro_tvm", "rpc-server"],
        "server in C++": [str(build_server() / PROGRAM)],
    }
    at, work = free_port(), options.folder / "work"
    work.mkdir()
    command = [sys.executable, "-c", _TRACKER, str(at), str(at + 1)]
    pauses = (options.seed, options.longest_pause_s)
    tracker = Supervised("tracker", command, environment, options.folder / "tracker.log", at, *pauses)
    servers = []
    for name, program in programs.items():
        port = free_port()
        command = [*program, "--port", str(port), "--port-end", str(port + 1), "--tracker", f"127.0.0.1:{at}"]
        command += ["--key", _KEY, "--work-dir", str(work)]
        log = options.folder / f"{name.rpartition(' ')[2]}.log"
        servers.append(Supervised(name, command, environment, log, port, *pauses))
    return servers, tracker


def _wait_for_boards(tracker: Supervised, servers: Sequence[Supervised]) -> None:
    """Waits until the tracker offers all boards."""

    def ready() -> bool:
        try:
            return summary(("127.0.0.1", tracker.port), 2).free(_KEY) >= len(servers)
        except BoardError:
            return False

    wait_until(ready, "the boards to register", _START_S)


def _tune(job: Job, environment: dict[str, str], chaos: Chaos, enough_s: float) -> Run:
    """One run, disturbed from its first measurement on, until all runs have been for long enough."""
    path, begin_s = job.save(), time.monotonic()
    log = job.path("log")
    command = [sys.executable, str(Path(__file__).with_name("soak_tuning.py")), "tune", str(path)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env={**environment, MARK: _RUN}
        )
    loose = False
    try:
        while process.poll() is None:
            if chaos.loose_s >= enough_s:
                chaos.let_loose(None)
            elif not loose and STARTED in log.read_text(errors="replace"):
                chaos.let_loose(process.pid)
                loose = True
            time.sleep(0.05)
    finally:
        chaos.let_loose(None)
        if process.poll() is None:
            process.kill()
            process.wait()
    said = log.read_text(errors="replace")
    run = Run(job.model, time.monotonic() - begin_s, process.returncode)
    run.reactions = {name: len(re.findall(re.escape(sign), said)) for name, sign in _REACTIONS.items()}
    run.problems += [f"left behind: {each}" for each in left_behind(_RUN)]
    if process.returncode:
        run.problems.append(f"ended with exit code {process.returncode}: {said[-2000:]}")
    return run


def _check(run: Run, job: Job, environment: dict[str, str]) -> None:
    """Looks at what a run has left."""
    programs = {
        "the store": ["-m", "softneuro_tvm", "db", "check", "--tuning-records", str(job.path("store.sqlite"))],
        "its results": [str(Path(__file__).with_name("soak_tuning.py")), "check", str(job.path("job.json"))],
    }
    if run.exit_code:
        return
    for what, arguments in programs.items():
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            run.problems.append(f"the check of {what} failed: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    if job.path("findings.json").exists():
        run.findings = Findings(**json.loads(job.path("findings.json").read_text()))
        run.problems += run.findings.problems


def show(report: Report, console: Console) -> None:
    """Prints what was done, and what runs did about it."""
    counts = Counter({(victim, signal): count for victim, signal, count in report.deeds})
    names = [signal.name for signal in SIGNALS]
    rows = [[victim, *(str(counts[victim, name]) for name in (*names, ""))] for victim in WEIGHTS]
    columns = [("victim", "left"), *((name, "right") for name in (*names, "not there"))]
    console.print(table(f"seed {report.seed}: what was done in {report.seconds:.0f} s", columns, rows))
    console.print("started: " + ", ".join(f"{name} {count} times" for name, count in report.starts.items()))
    rows = []
    for run in report.runs:
        statuses = run.findings.statuses if run.findings else {}
        records = ", ".join(f"{count} {status}" for status, count in statuses.items())
        rows.append([run.model, f"{run.seconds:.0f}", *map(str, run.reactions.values()), records])
    columns = [("model", "left"), ("s", "right"), *((name, "right") for name in _REACTIONS), ("records", "left")]
    console.print(table("runs", columns, rows))
    for problem in (*report.problems, *(problem for run in report.runs for problem in run.problems)):
        console.print(f"[red]problem[/red] {problem}", highlight=False)
    console.print("all is well" if report.ok else "[red]something is wrong[/red]")


def main() -> None:
    """Parses options and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="decides what is killed (default %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="for which runs are disturbed (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="that kernels use (default %(default)s)")
    parser.add_argument("--model", action="append", help="ONNX file or zoo:NAME (default zoo:digits); repeatable")
    parser.add_argument("--mean", type=float, default=4.0, help="seconds between two deeds (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="keeps logs and stores here; must be empty or new")
    parser.add_argument("--json", help="file to write the report to; - prints it instead of tables")
    chosen = parser.parse_args()
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)
    with tempfile.TemporaryDirectory(prefix="softneuro_tvm-soak-") as scratch:
        folder = (chosen.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        models = chosen.model or ["zoo:digits"]
        options = Options(folder, chosen.seed, chosen.minutes, models, chosen.threads, chosen.mean)
        try:
            report = soak(options, lambda text: console.print(f"[dim]{text}[/dim]"))
        except (SoftNeuroError, TimeoutError) as error:
            sys.exit(f"error: {error}")
    if chosen.json == "-":
        print_json(asdict(report))
    elif chosen.json:
        write_atomically(Path(chosen.json), (json.dumps(asdict(report), indent=1) + "\n").encode())
    if chosen.json != "-":
        show(report, Console(width=None if sys.stdout.isatty() else 120))
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
