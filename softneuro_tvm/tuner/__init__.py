"""Active measuring: what is worth measuring next, until no further measurement could change the plan."""

from softneuro_tvm.tuner.conclusion import Conclusion, Conclusions, StoredConclusions
from softneuro_tvm.tuner.network import Network
from softneuro_tvm.tuner.prediction import Predictor
from softneuro_tvm.tuner.tuner import Tuner, TunerOptions, Tuning
from softneuro_tvm.tuner.unmeasured import with_unmeasured

__all__ = [
    "Conclusion",
    "Conclusions",
    "Network",
    "Predictor",
    "StoredConclusions",
    "Tuner",
    "TunerOptions",
    "Tuning",
    "with_unmeasured",
]
