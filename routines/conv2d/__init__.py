"""Routines for two-dimensional convolution."""
