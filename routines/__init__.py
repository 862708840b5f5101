"""The routines: one file each, found by scanning. Installed as `softneuro_tvm.routines`."""
