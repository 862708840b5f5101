"""A picture of a comparison: how many times as long as ours each engine takes, for all models. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softneuro_tvm.errors import ProfileError

_COLOURS = ("#4C78A8", "#F58518", "#54A24B", "#B279A2", "#9D755D", "#E45756")


def plot_ratios(results: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draws one panel for each thread count, one group of bars for each model, one bar for each engine.

    Args:
        results: Entries with ``model``, ``threads`` and ``engines`` (a list of ``engine``, ``median_s``; ours first).
        path: Picture to write; its ending is the format: .png, .svg, .pdf.

    Raises:
        ProfileError: matplotlib is missing, or nothing was measured.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ProfileError("a plot needs matplotlib: pip install 'softneuro_tvm[plots]'") from error
    measured = [result for result in results if "engines" in result]
    if not measured:
        raise ProfileError("there is nothing to plot: no model was measured")
    threads = sorted({result["threads"] for result in measured})
    models = list(dict.fromkeys(result["model"] for result in measured))
    engines = list(dict.fromkeys(row["engine"] for result in measured for row in result["engines"][1:]))
    figure = Figure(figsize=(max(6.0, 1.2 * len(models)), 3.2 * len(threads) + 0.6), layout="constrained")
    panels = figure.subplots(len(threads), 1, squeeze=False)[:, 0]
    width = 0.8 / max(1, len(engines))
    for panel, count in zip(panels, threads, strict=True):
        for index, engine in enumerate(engines):
            heights = [_ratio(measured, model, count, engine) for model in models]
            positions = [place + (index - (len(engines) - 1) / 2) * width for place in range(len(models))]
            bars = panel.bar(positions, heights, width, label=engine, color=_COLOURS[index % len(_COLOURS)])
            labels = ["" if math.isnan(height) else f"{height:.1f}" for height in heights]
            panel.bar_label(bars, labels, fontsize=6, padding=1)
        panel.axhline(1.0, color="black", linewidth=1)
        panel.set_xticks(range(len(models)), [model.removeprefix("zoo:") for model in models], fontsize=8, rotation=15)
        panel.set_ylabel("time / ours")
        panel.set_title(f"{count} thread{'s' if count > 1 else ''}", fontsize=10, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8, ncols=len(engines), loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.savefig(path, dpi=150)


def _ratio(results: Sequence[Mapping[str, Any]], model: str, threads: int, engine: str) -> float:
    """An engine's median over ours; not a number where it was not measured."""
    for result in results:
        if (result["model"], result["threads"]) == (model, threads):
            times = {row["engine"]: row["median_s"] for row in result["engines"]}
            ratio = times.get(engine, math.nan) / result["engines"][0]["median_s"]
            return ratio if math.isfinite(ratio) else math.nan
    return math.nan
