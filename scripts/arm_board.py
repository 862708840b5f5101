"""An ARM board without a board: the C++ RPC server for aarch64, under QEMU's user-mode emulation.

What it computes is right, its times mean nothing. Needs QEMU, the libraries of an aarch64 Debian, a cross compiler (or
the wheel ziglang) and TVM's aarch64 wheels; as root on Debian or Ubuntu what is missing is installed, wheels and the
compiled server are kept in the user's cache folder. Exit code 2: it cannot be set up; the reason is printed.

All options but those listed go to the server (`--port`, `--tracker`, `--key` ...; `arm-board -- --help` lists them):

    scripts/arm-board --port 9090
    scripts/arm-board --tracker 127.0.0.1:9190 --key emulated-a76
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from softneuro_tvm.board.compiling import PROGRAM, build_server, find_compiler
from softneuro_tvm.board.runtimes import TRIPLES, downloaded_site
from softneuro_tvm.errors import BuildError, DeviceError, SoftNeuroError

MACHINE = "aarch64"
SYSROOT = Path("/usr") / TRIPLES[MACHINE]
"""Where Debian's cross packages put the libraries."""
CANNOT_BE_SET_UP = 2


def main() -> None:
    """Sets up, then becomes the server."""
    parser = argparse.ArgumentParser(
        prog="arm-board", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", default="cortex-a76", help="the processor that QEMU emulates (default %(default)s)")
    parser.add_argument("--setup-only", action="store_true", help="set up, print the server's command, and end")
    parser.add_argument("--no-install", action="store_true", help="fetch nothing: what is missing is an error")
    options, for_server = parser.parse_known_args()
    try:
        command = set_up(options.cpu, not options.no_install)
    except SoftNeuroError as error:
        sys.stderr.write(f"the emulated board cannot be set up: {error}\n")
        sys.exit(CANNOT_BE_SET_UP)
    if options.setup_only:
        sys.stdout.write(" ".join(command) + "\n")
        return
    os.execv(command[0], [*command, *(word for word in for_server if word != "--")])


def set_up(cpu: str, may_fetch: bool) -> list[str]:
    """Finds or fetches all that is needed.

    Returns:
        The command that starts the server under QEMU.

    Raises:
        DeviceError: a part is missing and cannot be had.
    """
    if platform.machine() == MACHINE:
        raise DeviceError(f"this machine is {MACHINE} itself; start `softneuro-tvm rpc-server` on it")
    if sys.platform != "linux":
        raise DeviceError("QEMU's user-mode emulation is for Linux; use a virtual machine or a container")
    packages = _missing_packages()
    if packages and may_fetch:
        _install(packages)
        packages = _missing_packages()
    if packages:
        raise DeviceError(f"missing: {', '.join(packages)}; as root: apt-get install {' '.join(packages)}")
    if not may_fetch and not downloaded_site(MACHINE).exists():
        raise DeviceError("TVM's aarch64 wheels were not downloaded; run `scripts/arm-board --setup-only` first")
    return [_qemu(), "-cpu", cpu, "-L", str(SYSROOT), str(build_server(MACHINE) / PROGRAM)]


def _qemu() -> str:
    return shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64") or ""


def _missing_packages() -> list[str]:
    """Names of Debian packages whose parts are not there."""
    missing = [] if _qemu() else ["qemu-user-static"]
    try:
        find_compiler(MACHINE)
    except BuildError:
        missing += ["gcc-aarch64-linux-gnu", "g++-aarch64-linux-gnu", "libc6-dev-arm64-cross"]
    if not (SYSROOT / "lib" / "ld-linux-aarch64.so.1").exists():
        missing.append("libc6-arm64-cross")
    if not (SYSROOT / "lib" / "libstdc++.so.6").exists():
        missing.append("libstdc++6-arm64-cross")
    return missing


def _install(packages: list[str]) -> None:
    """Installs Debian packages where that is possible."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    sys.stderr.write(f"installing {' '.join(packages)}\n")
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DeviceError(f"apt-get {' '.join(arguments)} failed:\n{done.stderr.strip()}")


if __name__ == "__main__":
    main()
