"""Accuracy, size, latency and memory of models and files; time of training steps."""

from kacc.measurement.latency import Latency, LatencyRatio, compare_latency
from kacc.measurement.measure import Measurement, measure
from kacc.measurement.profiling import Profile, profile

__all__ = [
    "Latency",
    "LatencyRatio",
    "Measurement",
    "Profile",
    "compare_latency",
    "measure",
    "profile",
]
