"""Routines for resizing feature maps."""
