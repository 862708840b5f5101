from __future__ import annotations

from softneuro_tvm.benchmark.peak import peak_flops


def test_a_peak_is_measured() -> None:
    assert 1e8 < peak_flops(1) < 1e13
