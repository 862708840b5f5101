"""The main job: tune a network for this machine, build it, run it, compare it with its untuned self."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

import softneuro_tvm as sn
from softneuro_tvm import zoo

console = Console()


def digits(folder: Path) -> None:
    """Tunes the small trained network and classifies real images with the built library."""
    console.rule("1. a small trained network: handwritten digits")
    library = folder / "digits.so"
    command("tune", "zoo:digits", "-o", str(library))
    images, labels = zoo.digits_test()
    module = sn.load_module(library)
    found = np.array([int(np.argmax(module(image[None]))) for image in images])
    console.print(f"{np.mean(found == labels):.1%} of {len(labels)} held-out images classified correctly")


def network(model: str, folder: Path) -> None:
    """Tunes a real network and compares engines."""
    console.rule(f"2. {model}")
    library = folder / "network.so"
    command("tune", model, "-o", str(library))
    console.rule("3. side by side")
    command("bench", str(library), "--against", "untuned,onnxruntime", "--rounds", "5")


def command(*arguments: str) -> None:
    """Runs `softneuro-tvm` as a user would; stops on failure."""
    console.print(f"[dim]$ softneuro-tvm {' '.join(arguments)}[/dim]", highlight=False)
    code = subprocess.call([sys.executable, "-m", "softneuro_tvm", *arguments])
    if code:
        sys.exit(code)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="softneuro_tvm-") as scratch:
        digits(Path(scratch))
        network(sys.argv[1] if len(sys.argv) > 1 else "zoo:resnet18", Path(scratch))
