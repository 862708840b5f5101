"""Routines for max pooling of 8-bit integers."""
