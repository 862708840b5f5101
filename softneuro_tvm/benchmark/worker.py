"""One engine in a process: loads, reports, then runs as often as each line of standard input says."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, TextIO

import numpy as np

from softneuro_tvm.benchmark.engines import ENGINES


def main(engine: str, source: str, inputs: str, outputs: str, threads: str) -> None:
    """Serves until standard input ends.

    Args:
        engine: Name in `ENGINES`.
        source: What the engine loads.
        inputs: Archive (.npz) of inputs by name.
        outputs: Archive to write the outputs to, in order.
        threads: Threads that the engine may use.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever an engine prints must not mix with the answers
    try:
        with np.load(inputs) as archive:
            run, results = ENGINES[engine](source, dict(archive), int(threads))
        named: dict[str, Any] = {str(i): value for i, value in enumerate(results())}
        np.savez(outputs, **named)
    except ModuleNotFoundError as error:
        _answer(answers, {"error": f"{error.name} is not installed: pip install 'softneuro_tvm[peers]'"})
        return
    except Exception as error:  # an engine may raise anything; the parent reports it
        _answer(answers, {"error": f"{type(error).__name__}: {error}"})
        return
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        run()
        samples = []
        for _ in range(int(line)):
            begin = time.perf_counter_ns()
            run()
            samples.append((time.perf_counter_ns() - begin) * 1e-9)
        _answer(answers, {"samples": samples})


def _answer(stream: TextIO, data: dict[str, Any]) -> None:
    stream.write(json.dumps(data) + "\n")
    stream.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
