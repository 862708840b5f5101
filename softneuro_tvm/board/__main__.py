"""Makes a folder with the C++ server and all it needs, to be copied to a board: `python -m softneuro_tvm.board`."""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from pathlib import Path

from softneuro_tvm.board.compiling import PROGRAM, build_server
from softneuro_tvm.board.runtimes import TRIPLES
from softneuro_tvm.errors import SoftNeuroError


def main() -> None:
    """Parses options and compiles."""
    parser = argparse.ArgumentParser(prog="python -m softneuro_tvm.board", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to put it; must not exist")
    parser.add_argument(
        "--machine", choices=TRIPLES, default=platform.machine(), help="the board's processor (default %(default)s)"
    )
    parser.add_argument(
        "--compiler",
        help="C++ compiler for it, with its arguments; by default (cross) gcc or clang, or the wheel ziglang",
    )
    options = parser.parse_args()
    try:
        folder = build_server(options.machine, shlex.split(options.compiler or "") or None, options.folder)
    except SoftNeuroError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    sys.stdout.write(f"copy {folder} to the board and run {folder.name}/{PROGRAM} --help there\n")


if __name__ == "__main__":
    main()
