"""The machine's measured peak: fused multiply-adds on registers, on as many threads as a network runs with."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import Any

from softneuro_tvm.device import Device, host_device
from softneuro_tvm.errors import ProfileError
from softneuro_tvm.machine import machine_lock
from softneuro_tvm.routines._tir import Kernel

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


def multiply_adds(device: Device) -> Any:
    """A kernel of dependent chains x = x * a + b: enough of them to hide the latency, few enough for registers.

    Arguments: a, b (1,) and y (threads, chains * lanes), float32.
    """
    lanes, chains = device.vector_lanes, _chains(device)
    with Kernel() as k:
        a, b, y = k.arguments(("a", (1,)), ("b", (1,)), ("y", (device.threads, chains * lanes)))
        with k.loop(device.threads, parallel=device.threads > 1) as thread:
            registers = [k.scratch(lanes) for _ in range(chains)]
            for register in registers:
                k.store(register, 0, k.splat(a[0], lanes), lanes)
            with k.loop(_STEPS):
                for register in registers:
                    value = k.load(register, 0, lanes) * k.splat(a[0], lanes) + k.splat(b[0], lanes)
                    k.store(register, 0, value, lanes)
            for chain, register in enumerate(registers):
                k.store(y, (thread * chains + chain) * lanes, k.load(register, 0, lanes), lanes)
    return k.function


def _chains(device: Device) -> int:
    return device.vector_registers - 6


def _measure(threads: int) -> float:
    import numpy as np
    import tvm

    from softneuro_tvm.codegen import PASS_CONFIG, TIR_PIPELINE, rename

    os.environ["TVM_NUM_THREADS"] = str(threads)
    device = host_device(threads)
    shape = (threads, _chains(device) * device.vector_lanes)
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        module = tvm.IRModule({"fma": rename(multiply_adds(device), "fma")})
        built = tvm.tirx.build(module, tvm.target.Target(dict(device.target)), pipeline=TIR_PIPELINE)
    arguments = [tvm.runtime.tensor(np.full(extents, 0.5, np.float32)) for extents in ((1,), (1,), shape)]
    timed = built.time_evaluator("fma", tvm.cpu(), number=1, repeat=_REPEATS, min_repeat_ms=20)(*arguments)
    return 2.0 * shape[0] * shape[1] * _STEPS / float(statistics.median(timed.results))


if __name__ == "__main__":
    print(_measure(int(sys.argv[1])))
