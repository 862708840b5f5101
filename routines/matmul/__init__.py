"""Routines for products of two activations."""
