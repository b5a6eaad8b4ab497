"""Accuracy, size, latency and memory of models and files."""

from kacc.measurement.latency import Latency, LatencyRatio, compare_latency
from kacc.measurement.measure import Measurement, measure

__all__ = ["Latency", "LatencyRatio", "Measurement", "compare_latency", "measure"]
