"""Routines for reshapes."""
