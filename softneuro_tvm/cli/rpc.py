"""`softneuro-tvm rpc check`: can a board be reached, and is it fit for measuring."""

from __future__ import annotations

import typer

from softneuro_tvm.cli.board_options import RpcKey, RpcServer, RpcTracker, Target, chosen_board
from softneuro_tvm.cli.options import Json
from softneuro_tvm.cli.tables import console, print_json, table
from softneuro_tvm.device import HOST
from softneuro_tvm.errors import DeviceError
from softneuro_tvm.lean_import import import_tvm

app = typer.Typer(no_args_is_help=True, help="Boards that are reached over TVM's RPC.")


@app.callback()
def _group() -> None:
    """Keeps `check` a command of its own, though it is the only one."""


@app.command("check")
def check(
    rpc_tracker: RpcTracker = None,
    rpc_key: RpcKey = None,
    rpc_server: RpcServer = None,
    target: Target = HOST,
    json_output: Json = False,
) -> None:
    """Reach a board, compare versions, measure line and noise; say what to fix. Exit code 1 if something must be."""
    import_tvm()
    from softneuro_tvm.devices import load_device
    from softneuro_tvm.remote.check import check_board

    board = chosen_board(rpc_tracker, rpc_key, rpc_server, None, elsewhere=True)
    if board is None:
        raise DeviceError("which board? --rpc-tracker HOST:PORT --rpc-key KEY, or --rpc-server HOST:PORT")
    findings = check_board(board, load_device(target))
    if json_output:
        print_json({"board": board.place, "findings": [vars(finding) for finding in findings]})
    else:
        rows = [["ok" if f.ok else "PROBLEM", f.subject, f.found, f.remedy] for f in findings]
        columns = [("", "left"), ("what", "left"), ("found", "left"), ("do", "left")]
        console.print(table(f"board {board.place}", columns, rows))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
