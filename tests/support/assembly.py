"""The assembly text of kernels: its inner loops, and instructions counted in it. For x86 and ARM."""

from __future__ import annotations

import re

import tvm

from softneuro_tvm import codegen
from softneuro_tvm.device import Device
from softneuro_tvm.graph import Workload
from softneuro_tvm.registry import routine
from softneuro_tvm.routine import Variant


def kernel_assembly(name: str, workload: Workload, variant: Variant, device: Device) -> str:
    """The text of a routine's kernel."""
    kernel = codegen.rename(routine(name).emit(workload, variant, device), "kernel")
    with tvm.transform.PassContext(opt_level=3, config=codegen.PASS_CONFIG):
        target = tvm.target.Target(dict(device.target))
        module = tvm.tirx.build(tvm.IRModule({"kernel": kernel}), target, pipeline=codegen.TIR_PIPELINE)
    return str(module.inspect_source("asm"))


def innermost_loops(text: str) -> list[str]:
    """The bodies of loops around no other loop: from a label to the jump back to it."""
    lines = text.splitlines()
    labels = {line.partition(":")[0]: i for i, line in enumerate(lines) if re.match(r"\.L\w+:", line)}
    pattern = r"^\s+(?:j\w+|b|b\.\w+|t?bn?z|cbn?z)\s.*?(\.L\w+)$"
    jumps = [(i, re.search(pattern, line)) for i, line in enumerate(lines)]
    loops = [(labels[jump[1]], end) for end, jump in jumps if jump and labels.get(jump[1], end) < end]
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return ["\n".join(lines[start:end]) for start, end in inner]


def count(pattern: str, text: str) -> int:
    """Instructions that a pattern matches, from their names on."""
    return len(re.findall(rf"^\s+{pattern}", text, re.MULTILINE))


def stack_accesses(text: str, registers: str = "") -> int:
    """Instructions that have an operand on the stack.

    Args:
        text: A loop's body.
        registers: Only loads and stores of these on ARM, e.g. `qsd` for vectors and elements; of any if empty.
    """
    moves = rf"(ldr|ldur|ldp|str|stur|stp)\s+[{registers}]\d" if registers else ""
    return count(rf"{moves}.*(\[sp\b|\(%rsp)", text)
