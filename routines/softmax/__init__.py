"""Routines for softmax."""
