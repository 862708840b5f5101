"""The layer kinds. Each public module of this folder defines one `LayerKind`; adding a file adds a kind."""
