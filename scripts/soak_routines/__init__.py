"""Routines that crash and hang, which `scripts/soak` registers in the way that packages of third parties do."""
