"""Routines for slices."""
