"""Lists packages for setuptools: `routines/` stands at the top level and installs as `softneuro_tvm.routines`."""

from setuptools import find_packages, setup

routines = ["softneuro_tvm.routines", *(f"softneuro_tvm.routines.{name}" for name in find_packages("routines"))]
setup(packages=[*find_packages(include=["softneuro_tvm", "softneuro_tvm.*"]), *routines])
