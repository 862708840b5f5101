"""Adapters: routines that copy a tensor from one layout to another."""
