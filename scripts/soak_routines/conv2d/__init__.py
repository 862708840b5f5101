"""Faults in place of convolutions."""
