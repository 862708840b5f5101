"""Routines for reductions."""
