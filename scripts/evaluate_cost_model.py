"""Judges the cost model on networks that it has not seen, and replays active measuring with it.

Each network of the zoo is left out in turn. Without options, errors and bounds are judged routine by routine. With
``--simulate``, tuning is replayed on recorded measurements: the plan that is best at the lower bounds is measured until
it cannot change; reported is what was never measured, and how much slower the found plan is than the optimum.

    python scripts/evaluate_cost_model.py --store zoo.sqlite
    python scripts/evaluate_cost_model.py --store zoo.sqlite --simulate --levels 0.02,0.05,0.1
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cost_model_data import THREADS, add_options, read_data, zoo_graphs, zoo_workloads
from cost_model_simulation import Setting, near_records, simulate, truth_of
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from softneuro_tvm.cost_model.model import HIGH_LEVEL, LOW_LEVEL, Pretrained
from softneuro_tvm.cost_model.roofline import CALL_S
from softneuro_tvm.cost_model.training import Dataset, Fold, finish, hold_out, unseen_scale, without

console = Console(width=160)
_FEWEST = 4
"""Candidates of a workload among which a rank correlation says something."""


def judge(data: Dataset, folds: Sequence[Fold], models: Mapping[str, Pretrained]) -> dict[str, dict[str, Any]]:
    """Quality of the predictions of each routine, and of all together, for networks left out."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for fold in folds:
        model = models[fold.network]
        routines = [data.routines[i] for i in fold.rows]
        _, scales = model.trees([data.rows[i] for i in fold.rows], routines)
        scales = np.where([r in model.trees.routines for r in routines], scales, np.maximum(scales, model.unseen_scale))
        deviation = scales * np.sqrt(model.errors.total)
        low, high = (model.calibration.quantiles(routines, level) * deviation for level in (LOW_LEVEL, HIGH_LEVEL))
        for i, error, least, most in zip(fold.rows.tolist(), fold.errors, low, high, strict=True):
            record, lanes = data.records[i], data.rows[i]["lanes"]
            log_s = np.log(record.median_s + CALL_S)
            group = (fold.network, record.candidate.workload, record.threads, record.residency, lanes)
            row = (log_s, log_s - error, error >= least, error <= most, np.exp(least - most), group)
            for name in (data.routines[i], "all"):
                rows.setdefault(name, []).append(row)
    return {name: _summary(found) for name, found in sorted(rows.items())}


def _summary(rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    target, predicted, above, below, width, groups = zip(*rows, strict=True)
    times, guesses = np.array(target), np.array(predicted)
    by_workload: dict[Any, list[int]] = {}
    for i, group in enumerate(groups):
        by_workload.setdefault(group, []).append(i)
    within = [_rank(times[i], guesses[i]) for i in by_workload.values() if len(i) >= _FEWEST]
    return {
        "records": len(rows),
        "spearman_within": float(np.mean(within)) if within else None,
        "spearman": _rank(times, guesses),
        "median_error": float(np.median(np.abs(np.expm1(guesses - times)))),
        "p90_error": float(np.quantile(np.abs(np.expm1(guesses - times)), 0.9)),
        "above_low": float(np.mean(above)),
        "below_high": float(np.mean(below)),
        "low_over_high": float(np.median(width)),
    }


def _rank(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 1.0
    return float(spearmanr(first, second).statistic)


def _shown(value: Any) -> str:
    return "-" if value is None else str(value) if isinstance(value, int | str) else f"{value:.3f}"


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows as a table."""
    table = Table(title=title, title_justify="left")
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading in ("routine", "network") else "right")
    for row in rows:
        table.add_row(*map(_shown, row.values()))
    console.print(table)


def show_simulation(results: Sequence[Mapping[str, Any]]) -> None:
    """Prints every run, and what each setting comes to over all networks."""
    show("networks left out, tuning replayed", results)
    totals = []
    for setting in dict.fromkeys((row["level"], row["gap"]) for row in results):
        rows = [row for row in results if (row["level"], row["gap"]) == setting]
        regrets = [row["regret"] for row in rows]
        candidates = sum(row["candidates"] for row in rows)
        totals.append(
            {
                "level": setting[0],
                "gap": setting[1],
                "saved": 1 - sum(row["measured"] for row in rows) / candidates,
                "mean regret": float(np.mean(regrets)),
                "max regret": float(np.max(regrets)),
                "below 1 %": sum(regret < 0.01 for regret in regrets),
                "runs": len(rows),
                "rounds": float(np.mean([row["rounds"] for row in rows])),
                "unmeasured regret": float(np.mean([row["unmeasured"] for row in rows])),
            }
        )
    show("all networks", totals)


def main() -> None:
    """Parses options and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--simulate", action="store_true", help="replay active measuring")
    parser.add_argument("--levels", default="0.02,0.05,0.1,0.2,0.3,0.5", help="levels of the lower bound (%(default)s)")
    parser.add_argument("--gaps", default="0,0.005", help="shares that are not pursued (%(default)s)")
    parser.add_argument("--foreign", action="store_true", help="as if the device were unknown, and 1.7 times as slow")
    parser.add_argument("--near", type=int, default=0, help="records of each routine, of other networks, shown first")
    parser.add_argument("--networks", help="networks to report, all that the stores cover by default")
    parser.add_argument("--json", type=Path, help="file to write results to")
    options = parser.parse_args()
    data, devices, records = read_data(options)
    graphs = zoo_graphs()
    folds = hold_out(data, zoo_workloads(graphs, devices), lambda text: console.print(f"[dim]without {text}[/dim]"))
    unseen = unseen_scale(data)
    provenance = (
        {} if options.foreign else {"part": devices[0].part, "lanes": [device.vector_lanes for device in devices]}
    )
    wanted = options.networks.split(",") if options.networks else list(graphs)
    folds_of = {fold.network: fold for fold in folds}
    models = {
        name: finish(data, fold.trees, without(data, folds, fold), unseen, provenance)
        for name, fold in folds_of.items()
        if name in wanted
    }
    if not options.simulate:
        found = judge(data, [folds_of[name] for name in models], models)
        show("networks left out", [{"routine": name, **row} for name, row in found.items()])
        networks = {name: judge(data, [folds_of[name]], models)["all"] for name in models}
        show("each network", [{"network": name, **row} for name, row in networks.items()])
        content: Any = {"routines": found, "networks": networks}
    else:
        truth = truth_of(records)
        levels = [float(text) for text in options.levels.split(",")]
        settings = [Setting(level, float(gap)) for gap in options.gaps.split(",") for level in levels]
        content = []
        for name, model in models.items():
            for threads in THREADS:
                asked = devices[0].with_threads(threads)
                slower = 1.7 if options.foreign else 1.0
                near = near_records(records, graphs[name], asked, options.near) if options.near else []
                content += simulate(graphs[name], model, asked, truth, settings, slower, near)
        if not content:
            parser.error("the stores cover no network; tune some with --exhaustive first")
        show_simulation(content)
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
