"""Routines for elementwise expressions between 8-bit integers."""
