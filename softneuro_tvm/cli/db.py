"""`softneuro-tvm db`: looks after the profile store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from softneuro_tvm.cli.options import Json, Store
from softneuro_tvm.cli.tables import console, print_json, table
from softneuro_tvm.errors import StoreError
from softneuro_tvm.fingerprint import summary
from softneuro_tvm.profiler import exchange
from softneuro_tvm.profiler.store import ProfileStore, default_path

app = typer.Typer(no_args_is_help=True, help="Look after the profile store: check, export, import, merge, prune.")

_SHOWN = 20


@app.command("info")
def info(tuning_records: Store = None, json_output: Json = False) -> None:
    """Show what the store holds: records by status and by device, its size and age."""
    health = exchange.inspect_store(tuning_records or default_path())
    if json_output:
        print_json(_values(health))
        return
    console.print(_overview(health))
    rows = [[str(count), "unknown" if device is None else summary(device)] for device, count in health.devices]
    console.print(table("measured on", [("records", "right"), ("device", "left")], rows))


@app.command("check")
def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Set a damaged file aside; readable records go into a new one.")
    ] = False,
    tuning_records: Store = None,
    json_output: Json = False,
) -> None:
    """Check every page and every record; ends with 1 if something is damaged."""
    path = tuning_records or default_path()
    health = exchange.repair_store(path) if repair else exchange.inspect_store(path, count_outdated=True)
    if json_output:
        print_json(_values(health))
    else:
        console.print(_overview(health))
        _list("damage", health.damage)
        _list("unreadable", health.unreadable)
        if not health.sound:
            console.print("`softneuro-tvm db check --repair` sets the file aside and keeps what can be read")
    if not health.sound:
        raise typer.Exit(1)


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="File to write; compressed if its name ends with .gz.")],
    tuning_records: Store = None,
    json_output: Json = False,
) -> None:
    """Write all records to a text file, one JSON object a line, for another machine or for safe keeping."""
    with _existing(tuning_records) as store:
        count = exchange.export_records(store, file)
    if json_output:
        print_json({"records": count, "file": str(file), "bytes": file.stat().st_size})
    else:
        console.print(f"{count} record(s) written to {file} ({file.stat().st_size >> 10} KiB)")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="File that `db export` wrote.")],
    tuning_records: Store = None,
    json_output: Json = False,
) -> None:
    """Take over the records of an exported file; broken lines are left out and named, and the exit code is then 1."""
    with ProfileStore(tuning_records) as store:
        _report(exchange.import_records(store, file), json_output)


@app.command("merge")
def merge(
    others: Annotated[list[Path], typer.Argument(help="Stores to take records from; they are not changed.")],
    tuning_records: Store = None,
    json_output: Json = False,
) -> None:
    """Take over the records of other stores; samples of the same candidate are joined, else the newer record wins."""
    with ProfileStore(tuning_records) as store:
        _report(exchange.merge_stores(store, others), json_output)


@app.command("prune")
def prune(
    outdated: Annotated[
        bool, typer.Option("--outdated", help="Records of routines that changed since or are gone, or of another TVM.")
    ] = False,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, metavar="DAYS", help="Records measured longer ago.")
    ] = None,
    tuning_records: Store = None,
    json_output: Json = False,
) -> None:
    """Remove records to which all given conditions apply, and give their space back."""
    if not outdated and older_than is None:
        raise StoreError("say what to remove: --outdated, --older-than DAYS, or both")
    with _existing(tuning_records) as store:
        before = store.path.stat().st_size
        count = exchange.prune(store, outdated=outdated, older_than_days=older_than)
    freed = before - store.path.stat().st_size
    if json_output:
        print_json({"removed": count, "freed_bytes": freed})
    else:
        console.print(f"{count} record(s) removed, {max(freed, 0) >> 10} KiB freed")


def _existing(path: Path | None) -> ProfileStore:
    """Opens a store; a wrong name must not make a new one."""
    path = path or default_path()
    if not path.exists():
        raise StoreError(f"there is no profile store {str(path)!r}; check the name")
    return ProfileStore(path)


def _report(done: exchange.Transfer, json_output: bool) -> None:
    if json_output:
        print_json(asdict(done))
    else:
        console.print(f"{done.new} new record(s), {done.changed} changed, {done.same} already known")
        _list("left out", done.problems)
    if done.problems:
        raise typer.Exit(1)


def _overview(health: exchange.Health) -> Any:
    state = "sound" if health.sound else f"{len(health.damage)} damaged part(s), {len(health.unreadable)} unreadable"
    rows = [
        ["state", state],
        ["size", f"{health.size_bytes / 1e6:.1f} MB, schema {health.schema}"],
        ["records", ", ".join(f"{count} {status}" for status, count in health.statuses.items()) or "none"],
    ]
    if health.outdated is not None:
        rows.append(
            ["outdated", f"{health.outdated} (kept, not used; `softneuro-tvm db prune --outdated` removes them)"]
        )
    if health.first:
        rows.append(["measured", f"{health.first} to {health.last} UTC"])
    return table(f"profile store {health.path}", [("what", "left"), ("found", "left")], rows)


def _list(title: str, lines: tuple[str, ...]) -> None:
    for line in lines[:_SHOWN]:
        console.print(f"{title}: {line}", markup=False)
    if len(lines) > _SHOWN:
        console.print(f"{title}: and {len(lines) - _SHOWN} more")


def _values(health: exchange.Health) -> dict[str, Any]:
    return {**asdict(health), "sound": health.sound, "records": health.records}
