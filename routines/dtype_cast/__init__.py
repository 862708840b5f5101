"""Adapters: routines that convert a tensor from one element type to another."""
