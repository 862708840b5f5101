from __future__ import annotations

from pathlib import Path

import pytest

from softneuro_tvm.benchmark.plot import plot_ratios
from softneuro_tvm.errors import ProfileError


def test_ratios_that_were_measured_are_written_over_their_bars(tmp_path: Path) -> None:
    rows = [{"engine": "ours", "median_s": 1e-3}, {"engine": "a", "median_s": 2.3e-3}, {"engine": "b", "median_s": 1e9}]
    rows[2]["median_s"] = float("inf")
    failed = {"model": "n", "threads": 1, "failure": "unsupported"}
    plot_ratios([{"model": "zoo:m", "threads": 1, "engines": rows}, failed], tmp_path / "p.svg")
    picture = (tmp_path / "p.svg").read_text()
    assert "<!-- 2.3 -->" in picture and "<!-- 1 thread -->" in picture and "<!-- inf -->" not in picture


def test_nothing_measured(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="nothing to plot"):
        plot_ratios([{"model": "n", "threads": 1, "failure": "unsupported"}], tmp_path / "p.svg")
    assert not list(tmp_path.iterdir())
