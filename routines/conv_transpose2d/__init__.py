"""Routines for transposed convolution."""
