"""The machine's measured peak: fused multiply-adds on registers, on as many threads as a network runs with."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from softneuro_tvm.device import host_device
from softneuro_tvm.errors import ProfileError
from softneuro_tvm.machine import machine_lock
from softneuro_tvm.profiler.sentinel import chain_count, multiply_adds, sentinel_arguments

_STEPS = 200_000
_REPEATS = 15


def peak_flops(threads: int) -> float:
    """Floating-point operations a second (a fused multiply-add counts as two), the median of 15 samples.

    Args:
        threads: Threads that work at once, each on registers of its own.

    Raises:
        ProfileError: the measuring process failed; holds what it wrote.
    """
    with machine_lock():
        command = [sys.executable, "-m", "softneuro_tvm.benchmark.peak", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProfileError(f"measuring the machine's peak failed: {done.stderr.strip()[-300:]}")
    return float(done.stdout.split()[-1])


def _measure(threads: int) -> float:
    import tvm

    from softneuro_tvm.codegen import PASS_CONFIG, TIR_PIPELINE, rename

    os.environ["TVM_NUM_THREADS"] = str(threads)
    device = host_device(threads)
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        module = tvm.IRModule({"fma": rename(multiply_adds(device, _STEPS), "fma")})
        built = tvm.tirx.build(module, tvm.target.Target(dict(device.target)), pipeline=TIR_PIPELINE)
    arguments = [tvm.runtime.tensor(array) for array in sentinel_arguments(device)]
    timed = built.time_evaluator("fma", tvm.cpu(), number=1, repeat=_REPEATS, min_repeat_ms=20)(*arguments)
    return 2.0 * threads * chain_count(device) * device.vector_lanes * _STEPS / float(statistics.median(timed.results))


if __name__ == "__main__":
    print(_measure(int(sys.argv[1])))
