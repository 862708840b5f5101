"""Routines for layer normalisation."""
