"""What training and judging the cost model share: records of profile stores, and which workloads a network has."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from dataclasses import replace

from softneuro_tvm import zoo
from softneuro_tvm.candidates import enumerate_candidates
from softneuro_tvm.cost_model.records import Record, usable_records
from softneuro_tvm.cost_model.training import Dataset
from softneuro_tvm.device import Device, host_device
from softneuro_tvm.graph import Graph, Workload
from softneuro_tvm.importer import import_model
from softneuro_tvm.profiler import ProfileStore

THREADS = (1, 2)


NARROW_LANES, NARROW_REGISTERS = 4, 32
"""Vectors like ARM's."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which records are read."""
    parser.add_argument(
        "--store", action="append", help="profile store of this machine; may repeat, later ones prevail (the user's)"
    )
    parser.add_argument(
        "--narrow-store", help="profile store of this machine, where routines were told of vectors as narrow as ARM's"
    )


def read_data(options: argparse.Namespace) -> tuple[Dataset, list[Device], list[Record]]:
    """All records as arrays, the devices they were taken on, and the records with this machine's own vectors."""
    devices = [host_device(1)]
    records = read_records(options.store, devices[0])
    parts = [Dataset.of(records, devices[0])]
    if options.narrow_store:
        devices.append(replace(devices[0], vector_lanes=NARROW_LANES, vector_registers=NARROW_REGISTERS, fma=True))
        parts.append(Dataset.of(read_records([options.narrow_store], devices[1]), devices[1]))
    return Dataset.joined(parts), devices, records


def read_records(stores: Sequence[str] | None, device: Device) -> list[Record]:
    """The usable records that were taken on a device."""
    found: list[Record] = []
    for path in stores or (None,):
        with ProfileStore(path) as store:
            own = ((key, m) for key, m in store.records() if key.part == device.part)
            found += usable_records(own)
    return found


def zoo_graphs() -> dict[str, Graph]:
    """Every network of the zoo."""
    return {name: import_model(f"zoo:{name}") for name in (*zoo.names(), *zoo.extra_names())}


def zoo_workloads(graphs: dict[str, Graph], devices: Sequence[Device]) -> dict[str, frozenset[Workload]]:
    """Workloads of each network, adapters included."""
    every = [device.with_threads(threads) for device in devices for threads in THREADS]
    return {
        name: frozenset(workload for device in every for workload in enumerate_candidates(graph, device).by_workload)
        for name, graph in graphs.items()
    }


def machine_class(devices: Sequence[Device]) -> str:
    """The kind of machine, for provenance."""
    units = " and ".join(f"{d.vector_lanes} float32 lanes with {d.vector_registers} registers" for d in devices)
    return f"{platform.machine()}, {devices[0].part}, vectors of {units}"
