"""Stage `profile`: compiles candidates in parallel, measures them one at a time, remembers every result."""

from softneuro_tvm.measurement import Measurement
from softneuro_tvm.profiler.keys import Key, Residency, candidate_text, measurement_key, residency_of
from softneuro_tvm.profiler.observer import Observer, SilentObserver
from softneuro_tvm.profiler.run import Profiler
from softneuro_tvm.profiler.store import ProfileStore
from softneuro_tvm.profiler.timing import TimingOptions
from softneuro_tvm.profiler.workers import Workers

__all__ = [
    "Key",
    "Measurement",
    "Observer",
    "ProfileStore",
    "Profiler",
    "Residency",
    "SilentObserver",
    "TimingOptions",
    "Workers",
    "candidate_text",
    "measurement_key",
    "residency_of",
]
