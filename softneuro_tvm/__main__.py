"""`python -m softneuro_tvm` is `softneuro-tvm`."""

from softneuro_tvm.cli import main

main()
