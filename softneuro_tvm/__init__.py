"""Routine selection for Apache TVM: tune a trained network for the hardware at hand in a minute."""

__version__ = "0.1.0"
