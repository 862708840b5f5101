"""Running built modules. Needs TVM's runtime library only (`TVM_USE_RUNTIME_LIB=1`), not its compiler."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softneuro_tvm.device import architecture, available_cores, runs_elsewhere
from softneuro_tvm.elf_header import machine_of
from softneuro_tvm.errors import BuildError
from softneuro_tvm.library_pages import release_serialised_modules
from softneuro_tvm.quiet import quiet_constants
from softneuro_tvm.step_times import TIMES_FUNCTION, StepTime, blank_times, time_steps

if TYPE_CHECKING:
    from softneuro_tvm.library import Library

MANIFEST_FUNCTION = "softneuro_manifest"
"""Relax function of a built module that returns its manifest as JSON text."""


class Module:
    """A built network.

    Attributes:
        manifest: What the module says about itself; see `softneuro_tvm.builder.manifest`.
        vm: TVM's `relax.VirtualMachine` that runs it; None if it was built for another kind of machine.
        threads: Threads that it was tuned for and runs with.
    """

    def __init__(self, loaded: Any, manifest: Mapping[str, Any], library: Library | None = None) -> None:
        import tvm
        from tvm.runtime.vm import VirtualMachine

        self.manifest = manifest
        self._library = library
        self._loaded = loaded
        self.vm: Any = None if loaded is None else VirtualMachine(loaded, tvm.cpu())
        self._main: Callable[..., Any] = self._refuse if self.vm is None else self.vm["main"]
        self.threads = int(manifest["device"]["threads"])

    def _refuse(self, *_tensors: Any) -> Any:
        """Instead of running what cannot run here."""
        raise BuildError(runs_elsewhere("this module", architecture(self.manifest["device"]["target"])))

    @property
    def plan(self) -> dict[str, Any]:
        """The plan that the module was built from, as parsed JSON."""
        return dict(self.manifest["plan"])

    def export(self, path: str | Path) -> None:
        """Writes the module as a shared library, whole or not at all.

        Raises:
            BuildError: no linker, or the file cannot be written.
        """
        if self._library is None:
            raise BuildError("this module was loaded from a file already; copy that file")
        self._library.export(Path(path))

    def __call__(self, *inputs: np.ndarray, **named: np.ndarray) -> Any:
        """Runs the network.

        Args:
            *inputs: Arrays in the order of `manifest["inputs"]`.
            **named: Arrays by input name, for those not given by position.

        Returns:
            One array, or a list of arrays if the model has several outputs.
        """
        outputs = self.run(self.tensors(inputs, named))
        return outputs[0] if len(outputs) == 1 else outputs

    def tensors(self, inputs: Sequence[np.ndarray], named: Mapping[str, np.ndarray] | None = None) -> list[Any]:
        """Checks inputs and copies them into TVM tensors.

        Raises:
            BuildError: wrong number, name, shape or type of inputs.
        """
        import tvm

        return [tvm.runtime.tensor(array) for array in checked_inputs(self.manifest, inputs, named)]

    def runner(self, tensors: Sequence[Any]) -> Callable[[], Any]:
        """A function that runs the network once on TVM tensors and returns TVM's result, for timing."""
        configure_threads(self.threads)
        return lambda: self._main(*tensors)

    def run(self, tensors: Sequence[Any]) -> list[np.ndarray]:
        """Runs on TVM tensors that `tensors` made; returns numpy arrays."""
        configure_threads(self.threads)
        result = self._main(*tensors)
        many = [result] if hasattr(result, "numpy") else list(result)
        return [tensor.numpy() for tensor in many]

    def time(self, tensors: Sequence[Any], repeat: int = 10, number: int = 1, warm_up: int = 3) -> list[float]:
        """Measures the network.

        Args:
            tensors: From `tensors`.
            repeat: Samples taken.
            number: Runs that one sample averages.
            warm_up: Runs before the first sample.

        Returns:
            Seconds for each sample.
        """
        configure_threads(self.threads)
        for _ in range(warm_up):
            self._main(*tensors)
        samples = []
        for _ in range(repeat):
            begin = time.perf_counter_ns()
            for _ in range(number):
                self._main(*tensors)
            samples.append((time.perf_counter_ns() - begin) / number * 1e-9)
        return samples

    def time_steps(self, tensors: Sequence[Any], repeat: int = 20) -> list[StepTime]:
        """Measures each kernel call within the network.

        Args:
            tensors: From `tensors`.
            repeat: Runs.

        Raises:
            BuildError: the module was built before modules kept count of that.
        """
        import tvm

        count = tvm.runtime.tensor(blank_times(self.manifest))
        collect = self._loaded.get_function(TIMES_FUNCTION, True)
        return time_steps(self.manifest, collect, count, self.runner(tensors), repeat)


def checked_inputs(
    manifest: Mapping[str, Any], inputs: Sequence[np.ndarray], named: Mapping[str, np.ndarray] | None = None
) -> list[np.ndarray]:
    """The inputs of a module in its order.

    Args:
        manifest: The module's.
        inputs: Arrays in order.
        named: Arrays by input name, for those not given by position.

    Raises:
        BuildError: wrong number, name, shape or type of inputs.
    """
    expected = manifest["inputs"]
    names = [port["name"] for port in expected]
    given = dict(zip(names, inputs, strict=False)) | dict(named or {})
    if len(inputs) > len(names) or set(given) != set(names):
        raise BuildError(f"the module takes inputs {names}, got {len(inputs)} by position and {list(named or {})}")
    arrays = []
    for port in expected:
        array = np.asarray(given[port["name"]])
        if list(array.shape) != port["shape"] or str(array.dtype) != port["dtype"]:
            raise BuildError(
                f"input {port['name']!r} must be {port['dtype']}{port['shape']}, got {array.dtype}{list(array.shape)}"
            )
        arrays.append(np.asarray(array, order="C"))
    return arrays


_CHOSEN_BY_USER = "TVM_NUM_THREADS" in os.environ
_ONE_CORE_EACH = -2
"""TVM's way to share cores out: worker i runs on the i-th of the given ones, the calling thread on any of them."""


class _Pool(threading.local):
    """TVM's pool of the calling thread: each thread that runs modules has one of its own.

    Attributes:
        threads: That it uses; 0 as long as it was not told.
    """

    threads = 0


_pool = _Pool()


def configure_threads(threads: int) -> None:
    """Makes TVM's thread pool use this many threads, unless the user set TVM_NUM_THREADS.

    The pool is as large as TVM_NUM_THREADS says when the first parallel kernel runs (left alone, half the cores); it
    can use fewer threads afterwards, but never more. So it is made for all cores, once, and told how many to use.
    Threads stay on the cores that this process may use.
    """
    if _CHOSEN_BY_USER or _pool.threads == threads:
        return
    import tvm

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(available_cores())
    os.environ.setdefault("TVM_NUM_THREADS", str(max(threads, len(cores))))
    names = [str(core) for core in cores]
    tvm.get_global_func("runtime.config_threadpool")(_ONE_CORE_EACH, threads, names)
    _pool.threads = threads


def load_module(path: str | Path) -> Module:
    """Loads a module that `Module.export` wrote.

    Raises:
        BuildError: missing file, not a library, not one of ours, or for another kind of machine.
    """
    import tvm
    from tvm.runtime.vm import VirtualMachine

    file = Path(path)
    if not file.is_file():
        raise BuildError(f"there is no module {str(path)!r}; make one with `softneuro-tvm tune MODEL -o {file.name}`")
    machine = machine_of(file)
    if machine not in (None, architecture({})):
        raise BuildError(runs_elsewhere(str(path), str(machine)))
    try:
        with quiet_constants():
            loaded = tvm.runtime.load_module(str(file.resolve()))
            text = VirtualMachine(loaded, tvm.cpu())[MANIFEST_FUNCTION]()
            module = Module(loaded, json.loads(str(text)))
        release_serialised_modules(file.resolve())
    except Exception as error:  # TVM raises many types
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
        raise BuildError(
            f"{str(path)!r} is not a module that softneuro-tvm built ({reason}); build it again"
        ) from error
    return module
