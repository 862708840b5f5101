"""Routines for two-dimensional convolution of 8-bit integers."""
