"""Faults in place of fully connected layers."""
