"""Predicts how long candidates take, so that few of them need to be measured.

Records become candidates again (`records`), candidates become numbers (`features`, relative to a `roofline`), boosted
trees predict (`trees`), errors on networks never seen tell how far to trust them (`residuals`, `calibration`), and
measurements on the device at hand correct them (`model`). `training` makes the files that are shipped (`files`).
"""

from softneuro_tvm.cost_model.files import CostModelError
from softneuro_tvm.cost_model.model import HIGH_LEVEL, LOW_LEVEL, CostModel, Prediction

__all__ = ["HIGH_LEVEL", "LOW_LEVEL", "CostModel", "CostModelError", "Prediction"]
