"""`softneuro-tvm rpc-server`: lets a tuner on another machine run kernels here."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from softneuro_tvm.board.options import ServerOptions, parse_networks, parse_tracker

EPILOG = (
    "Whoever can connect can run any code as this user: listen on 127.0.0.1 and use an SSH tunnel. "
    "`ssh -N -L 9090:127.0.0.1:9090 -R 9190:127.0.0.1:9190 user@board` on the host makes this server reachable "
    "there as 127.0.0.1:9090, and a tracker that runs there reachable here as 127.0.0.1:9190."
)


def rpc_server(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; by default this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="First port to try; 0: any free one.")] = 9090,
    port_end: Annotated[int, typer.Option("--port-end", max=65536, help="The port after the last one to try.")] = 9199,
    tracker: Annotated[
        str | None, typer.Option("--tracker", metavar="HOST:PORT", help="Offer this machine to a tracker.")
    ] = None,
    key: Annotated[str, typer.Option("--key", help="What clients ask for, e.g. rpi5; needed with --tracker.")] = "",
    custom_addr: Annotated[
        str | None,
        typer.Option(
            "--custom-addr", help="Where the tracker sends clients, if not to the address this machine connects from."
        ),
    ] = None,
    session_timeout: Annotated[
        float,
        typer.Option("--session-timeout", min=0, help="Seconds that a session may last; 0: what the client asks."),
    ] = 0,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="ADDRESS[/BITS]", help="Refuse clients from elsewhere; may repeat."),
    ] = None,
    work_dir: Annotated[
        Path | None, typer.Option("--work-dir", help="Where each session gets a folder for its files.")
    ] = None,
    silent: Annotated[bool, typer.Option("--silent", help="Log only what goes wrong.")] = False,
) -> None:
    """Let a tuner on another machine run kernels on this one, over TVM's RPC.

    One session runs at a time, in a process of its own: a kernel that crashes or hangs ends its session, not the
    server. Kernels may use all cores, or as many as TVM_NUM_THREADS says. Ctrl-C or SIGTERM stops the server and a
    running session, and removes its files.
    """
    options = ServerOptions(
        host=host,
        port=port,
        port_end=port_end,
        tracker=parse_tracker(tracker),
        key=key,
        custom_addr=custom_addr,
        session_timeout_s=session_timeout,
        allow=parse_networks(allow or ()),
        work_dir=(work_dir or Path(tempfile.gettempdir())).absolute(),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s rpc-server: %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("softneuro_tvm.board")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.WARNING if silent else logging.INFO)

    from softneuro_tvm.board.server import serve

    serve(options)
