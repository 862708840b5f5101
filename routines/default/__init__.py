"""Routines for every layer kind: what runs where no hand-written routine applies."""
