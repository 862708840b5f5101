"""Routines for layers of kind `inverted_residual`."""
