"""`softneuro-tvm run`: run a built module."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from softneuro_tvm.cli.board_options import (
    RpcKey,
    RpcServer,
    RpcSessionTimeout,
    RpcTracker,
    chosen_board,
    is_elsewhere,
)
from softneuro_tvm.cli.options import Json
from softneuro_tvm.cli.step_tables import steps_json, steps_table
from softneuro_tvm.cli.tables import console, milliseconds, print_json
from softneuro_tvm.elf_header import machine_of
from softneuro_tvm.errors import ModelError
from softneuro_tvm.files import replacing


def run(
    module: Annotated[Path, typer.Argument(help="Library that `tune` wrote.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Option("-i", "--inputs", "--input", help="Inputs: .npy in the model's order, or one .npz by name."),
    ] = None,
    outputs: Annotated[Path | None, typer.Option("--outputs", help="Where to write outputs (.npz).")] = None,
    fill_mode: Annotated[str, typer.Option("--fill-mode", help="Without inputs: random, zeros or ones.")] = "random",
    print_time: Annotated[bool, typer.Option("--print-time", help="Print the time of a run.")] = False,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Samples for --print-time and --profile.")] = 20,
    number: Annotated[int, typer.Option("--number", min=1, help="Runs that a sample averages.")] = 1,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print how long each layer takes within the network, and by itself.")
    ] = False,
    top: Annotated[int, typer.Option("--top", help="Print the largest elements of the first output.")] = 5,
    rpc_tracker: RpcTracker = None,
    rpc_key: RpcKey = None,
    rpc_server: RpcServer = None,
    rpc_session_timeout: RpcSessionTimeout = None,
    json_output: Json = False,
) -> None:
    """Run a built module on given or generated inputs, here or on a board."""
    from softneuro_tvm.remote.module import RemoteModule
    from softneuro_tvm.remote.site import Site
    from softneuro_tvm.runtime import load_module

    elsewhere = module.is_file() and is_elsewhere(machine_of(module))
    board = chosen_board(rpc_tracker, rpc_key, rpc_server, rpc_session_timeout, elsewhere)
    with ExitStack() as stack:
        loaded = load_module(module) if board is None else RemoteModule(stack.enter_context(Site(board)), module)
        arrays = _read(inputs) if inputs else _fill(loaded.manifest["inputs"], fill_mode)
        positional = arrays if isinstance(arrays, list) else []
        tensors = loaded.tensors(positional, arrays if isinstance(arrays, dict) else {})
        results = dict(zip((port["name"] for port in loaded.manifest["outputs"]), loaded.run(tensors), strict=True))
        samples = loaded.time(tensors, repeat, number) if print_time or profile else []
        steps = loaded.time_steps(tensors, repeat) if profile else []
    if outputs is not None:
        with replacing(outputs) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **results)
    first = next(iter(results.values())).reshape(-1)
    best = [int(i) for i in np.argsort(first)[::-1][:top]]
    if json_output:
        shapes = {name: list(value.shape) for name, value in results.items()}
        print_json({"outputs": shapes, "top": best, "samples_s": samples, "steps": steps_json(steps)})
        return
    for name, value in results.items():
        console.print(f"{name}: {value.dtype}{list(value.shape)}")
    console.print("largest: " + ", ".join(f"[{i}] {first[i]:.4g}" for i in best), highlight=False)
    if steps:
        console.print(steps_table(steps, statistics.median(samples)))
    if samples:
        threads = loaded.manifest["device"]["threads"]
        console.print(
            f"median {milliseconds(statistics.median(samples))} ms, fastest {milliseconds(min(samples))} ms "
            f"of {repeat} x {number} runs, {threads} thread(s)"
        )


def _read(paths: list[Path]) -> list[np.ndarray] | dict[str, np.ndarray]:
    try:
        if len(paths) == 1 and paths[0].suffix == ".npz":
            with np.load(paths[0]) as archive:
                return dict(archive)
        return [np.load(path) for path in paths]
    except OSError as error:
        raise ModelError(f"cannot read input {error.filename!r}: {error.strerror}") from error
    except (ValueError, EOFError) as error:
        named = ", ".join(map(str, paths))
        raise ModelError(f"{named}: not arrays that numpy.save or numpy.savez wrote; write them with those") from error


def _fill(ports: list[dict[str, object]], mode: str) -> dict[str, np.ndarray]:
    makers: dict[str, Callable[[Any], np.ndarray]] = {
        "random": lambda shape: np.random.default_rng(0).standard_normal(shape),
        "zeros": np.zeros,
        "ones": np.ones,
    }
    if mode not in makers:
        raise ModelError(f"--fill-mode must be one of {', '.join(makers)}, not {mode!r}")
    filled = {}
    for port in ports:
        dtype = np.dtype(str(port["dtype"]))
        values = makers[mode](port["shape"])
        filled[str(port["name"])] = (np.abs(values) > 0.5 if dtype.kind in "iub" else values).astype(dtype)
    return filled
