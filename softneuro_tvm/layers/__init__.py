"""The layer kinds. Each module of this folder defines one `LayerKind`; adding a file adds a kind."""
