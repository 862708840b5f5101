"""Routines for transposes."""
