"""Routines for layers of kind `squeeze_excite`."""
