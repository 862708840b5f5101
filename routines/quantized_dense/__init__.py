"""Routines for fully connected layers on 8-bit integers."""
