"""Routines for elementwise expressions."""
