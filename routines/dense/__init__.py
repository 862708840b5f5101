"""Routines for fully connected layers."""
