"""Routines for layers of kind `conv_pool`."""
