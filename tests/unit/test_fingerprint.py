from __future__ import annotations

import json
from dataclasses import replace

import pytest

from softneuro_tvm import fingerprint as module
from softneuro_tvm.device import Device
from softneuro_tvm.fingerprint import differences, fingerprint, summary

DEVICE = Device(
    "host", {"kind": "llvm", "mcpu": "znver5"}, "AMD 26/2/1", 2, features=frozenset(("avx2", "fma", "smep", "srso"))
)


def test_it_is_plain_json_and_repeatable() -> None:
    found = fingerprint(DEVICE)
    assert json.loads(json.dumps(found)) == found == fingerprint(DEVICE)
    assert len(found["digest"]) == 12
    assert found["features"] == ["avx2", "fma"], "what no generated code uses changes with the kernel"
    assert found["llvm"].isdigit()
    assert found["cores"] >= 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"part": "Intel 6/1/1"}, "processor: made on AMD 26/2/1, this is Intel 6/1/1"),
        ({"threads": 1}, "threads: made on 2, this is 1"),
        ({"l2_bytes": 1 << 20}, "L2 cache: made on 512 KiB, this is 1024 KiB"),
        ({"target": {"kind": "llvm"}}, 'target: made on {"kind": "llvm", "mcpu": "znver5"}, this is {"kind": "llvm"}'),
        ({"features": frozenset(("avx2", "avx512f"))}, "instruction sets: this lacks fma, this has also avx512f"),
        ({"features": frozenset(("avx2", "fma", "hypervisor"))}, "virtual machine: made on no, this is yes"),
    ],
)
def test_a_difference_is_told_and_changes_the_digest(change: dict[str, object], line: str) -> None:
    one, two = fingerprint(DEVICE), fingerprint(replace(DEVICE, **change))  # type: ignore[arg-type]
    assert differences(one, two) == [line]
    assert one["digest"] != two["digest"]
    assert differences(one, one) == []


def test_the_set_up_counts_and_the_kernel_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"cpu0/cpufreq/scaling_governor": "powersave", "cpu0/cpufreq/scaling_driver": "amd-pstate"}
    monkeypatch.setattr(module, "_read", files.get)
    before = fingerprint(DEVICE)
    assert (before["governor"], before["frequency_driver"], before["smt"]) == ("powersave", "amd-pstate", None)
    monkeypatch.setattr("platform.release", lambda: "99.9")
    assert fingerprint(DEVICE)["digest"] == before["digest"]
    assert fingerprint(DEVICE)["kernel"] != before["kernel"]
    assert differences(before, fingerprint(DEVICE)) == []
    files["cpu0/cpufreq/scaling_governor"] = "performance"
    files["smt/active"] = "1"
    assert differences(before, fingerprint(DEVICE)) == [
        "simultaneous multithreading: made on unknown, this is on",
        "frequency governor: made on powersave, this is performance",
    ]
    assert "governor performance" in summary(fingerprint(DEVICE))


def test_parts_that_another_version_lacks_are_not_compared() -> None:
    found = fingerprint(DEVICE)
    del found["boost"]
    assert differences(found, {**fingerprint(DEVICE), "boost": "1", "new": 3}) == []
    assert summary({}) == "unknown, unknown thread(s), TVM unknown, LLVM unknown"
