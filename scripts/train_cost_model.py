"""Trains the cost model on profile stores and writes the file that is shipped.

Deterministic: the same records give the same file. Records whose routine has changed since count, too; the later of
two records of one candidate prevails. Networks of the zoo are left out in turn to learn how large errors are.

    python scripts/train_cost_model.py --store zoo.sqlite --narrow-store narrow.sqlite
"""

from __future__ import annotations

import argparse
import datetime
from importlib.metadata import version
from pathlib import Path

import xgboost
from cost_model_data import add_options, machine_class, read_data, zoo_graphs, zoo_workloads
from rich.console import Console

from softneuro_tvm.cost_model.files import SHIPPED, save
from softneuro_tvm.cost_model.training import train

console = Console()


def main() -> None:
    """Parses options and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--out", type=Path, default=SHIPPED, help="file to write; by default the one that is shipped")
    parser.add_argument("--note", default="", help="about the records, for people")
    parser.add_argument(
        "--date", default=datetime.date.today().isoformat(), help="written into the file (default %(default)s)"
    )
    options = parser.parse_args()
    data, devices, _ = read_data(options)
    if not data.records:
        parser.error("the stores hold no records of this machine; tune some networks first")
    provenance = {
        "machine": machine_class(devices),
        "part": devices[0].part,
        "lanes": [device.vector_lanes for device in devices],
        "target": dict(devices[0].target),
        "records": len(data.records),
        "workloads": len({record.candidate.workload for record in data.records}),
        "threads": sorted({record.threads for record in data.records}),
        "tvm": version("apache-tvm"),
        "softneuro_tvm": version("softneuro_tvm"),
        "xgboost": xgboost.__version__,
        "date": options.date,
        "note": options.note,
    }
    console.print(f"{len(data.records)} records of {provenance['machine']}")
    networks = zoo_workloads(zoo_graphs(), devices)
    model, _ = train(data, networks, provenance, lambda text: console.print(f"[dim]without {text}[/dim]"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save(model, options.out)
    console.print(f"{options.out}: {options.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
