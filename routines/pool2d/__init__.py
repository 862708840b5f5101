"""Routines for pooling."""
