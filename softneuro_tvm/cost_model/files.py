"""Trained models as files: a zip archive of JSON and XGBoost's own binary form; equal models give equal files."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from softneuro_tvm.cost_model.calibration import Calibration
from softneuro_tvm.cost_model.model import Pretrained
from softneuro_tvm.cost_model.residuals import ErrorModel
from softneuro_tvm.cost_model.trees import Trees
from softneuro_tvm.errors import ProfileError


class CostModelError(ProfileError):
    """A trained cost model is missing, damaged, or of another version."""


_FORMAT = 1
SHIPPED = Path(__file__).parent / "pretrained" / "cpu.zip"
"""The model that is shipped, for every processor; its provenance says where it was trained."""


def shipped() -> Pretrained:
    """The model that this package ships.

    It was trained on one x86 machine, with vectors of that machine's width and with vectors of four lanes and as many
    registers as ARM has. No ARM processor was measured: there, as on other x86 parts, intervals are wider until
    measurements on the device narrow them.

    Raises:
        CostModelError: the file is missing or damaged.
    """
    return load(SHIPPED)


def save(model: Pretrained, path: Path) -> None:
    """Writes a model."""
    trees = model.trees
    routines = sorted(trees.own)
    boosters = {"general": trees.general, "spread": trees.spread}
    boosters |= {f"own-{number}": trees.own[name][0] for number, name in enumerate(routines)}
    head = {
        "format": _FORMAT,
        "provenance": dict(model.provenance),
        "names": list(trees.names),
        "own": [[name, list(trees.own[name][1])] for name in routines],
        "errors": asdict(model.errors),
        "calibration": asdict(model.calibration),
        "unseen_scale": model.unseen_scale,
        "foreign_sd": model.foreign_sd,
        "foreign_widening": model.foreign_widening,
        "routines": sorted(trees.routines),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        entries = {"model.json": json.dumps(head, indent=1).encode()}
        entries |= {f"{name}.ubj": bytes(b.save_raw("ubj")) for name, b in boosters.items() if b is not None}
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_LZMA)  # ZipInfo has a fixed date


@lru_cache(maxsize=4)
def load(path: Path) -> Pretrained:
    """Reads what `save` wrote.

    Raises:
        CostModelError: there is no such file, or it is damaged, or of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            head = json.loads(archive.read("model.json"))
            if head["format"] != _FORMAT:
                raise CostModelError(f"cost model {path} has format {head['format']}, not {_FORMAT}; train it again")
            boosters = {name: _booster(archive.read(name)) for name in archive.namelist() if name.endswith(".ubj")}
        own = {name: (boosters[f"own-{i}.ubj"], tuple(columns)) for i, (name, columns) in enumerate(head["own"])}
        trees = Trees(
            tuple(head["names"]), frozenset(head["routines"]), boosters["general.ubj"], own, boosters.get("spread.ubj")
        )
        pooled, quantiles = head["calibration"]["pooled"], head["calibration"]["own"]
        return Pretrained(
            trees,
            ErrorModel(tuple(head["errors"]["variances"]), head["errors"]["noise"]),
            Calibration(tuple(pooled), {name: tuple(values) for name, values in quantiles.items()}),
            head["unseen_scale"],
            head["foreign_sd"],
            head["foreign_widening"],
            head["provenance"],
        )
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise CostModelError(
            f"cost model {path} cannot be read: {error!r}; install again, or run scripts/train_cost_model"
        ) from error


def _booster(content: bytes) -> Any:
    import xgboost  # heavy; only tuning needs it

    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(content))
    return booster
