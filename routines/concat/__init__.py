"""Routines for concatenations."""
