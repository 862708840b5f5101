"""Routines for selections of channels."""
