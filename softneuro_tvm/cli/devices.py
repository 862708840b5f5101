"""`softneuro-tvm devices`: what can be tuned for by name."""

from __future__ import annotations

from softneuro_tvm.cli.options import Json
from softneuro_tvm.cli.tables import console, print_json, table
from softneuro_tvm.device import to_json
from softneuro_tvm.devices import known_devices


def devices(json_output: Json = False) -> None:
    """List the devices that --target knows by name; files of your own and TVM's targets work, too."""
    known = known_devices().values()
    if json_output:
        rows = [{**to_json(each.device), "description": each.description, "cores": each.cores} for each in known]
        print_json({"devices": rows})
        return
    cells = [
        [
            each.name,
            each.description,
            str(each.device.target.get("mcpu", "")),
            f"{each.device.vector_lanes} x {each.device.vector_registers}{' FMA' if each.device.fma else ''}",
            " / ".join(f"{size >> 10}" for size in (each.device.l1_bytes, each.device.l2_bytes, each.device.l3_bytes)),
            str(each.cores),
        ]
        for each in known
    ]
    columns = [("name", "left"), ("description", "left"), ("code for", "left"), ("vector lanes x registers", "left")]
    console.print(table("devices", [*columns, ("L1 / L2 / L3 KiB", "right"), ("cores", "right")], cells))
    console.print("host, the default, is this machine as it is found; `doctor` shows it", highlight=False)
