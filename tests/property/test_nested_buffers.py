"""Random programmes of kernels, concatenations and slices, run in a planned arena: every read finds what was written.

A kernel writes bytes of its own and may write in place of an input. Joined and sliced tensors are never copied.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from softneuro_tvm.memory import ALIGNMENT, Buffer, plan_arena


@dataclass(frozen=True)
class Step:
    """``kernel``: reads and writes; ``join``: reads lie in what is written; ``slice``: the other way round."""

    kind: str
    read: tuple[int, ...]
    written: int
    in_place: tuple[int, ...] = ()


@dataclass
class Programme:
    """Tensors by their size, and which of them lie within which."""

    sizes: list[int] = field(default_factory=list)
    within: dict[int, tuple[int, int]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def tensor(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def root(self, index: int) -> int:
        while index in self.within:
            index = self.within[index][0]
        return index

    def buffers(self) -> list[Buffer]:
        used: list[list[int]] = [[] for _ in self.sizes]
        for number, step in enumerate(self.steps):
            for index in (*step.read, step.written):
                used[index].append(number)
        reuses = {step.written: step.in_place for step in self.steps}
        return [Buffer(s, min(u), max(u), reuses[i]) for i, (s, u) in enumerate(zip(self.sizes, used, strict=True))]


@st.composite
def programmes(draw: st.DrawFn) -> Programme:
    """What a module may do: a tensor is a part of one concatenation only, slices and parts may be nested."""
    found = Programme()
    for _ in range(draw(st.integers(3, 16))):
        every = list(range(len(found.sizes)))
        free = [i for i in every if i not in found.within]
        kind = draw(st.sampled_from(["kernel", "kernel", "join", "slice"]))
        if kind == "join" and len(free) > 1:
            parts = tuple(draw(st.lists(st.sampled_from(free), min_size=2, max_size=3, unique=True)))
            parts = tuple(p for p in parts[:-1] if found.sizes[p] % ALIGNMENT == 0) + parts[-1:]
            whole = found.tensor(sum(found.sizes[p] for p in parts))
            for at, part in enumerate(parts):
                found.within[part] = (whole, sum(found.sizes[p] for p in parts[:at]))
            found.steps.append(Step("join", parts, whole))
        elif kind == "slice" and every:
            source = draw(st.sampled_from(every))
            begin = draw(st.integers(0, (found.sizes[source] - 1) // ALIGNMENT)) * ALIGNMENT
            part = found.tensor(draw(st.integers(1, found.sizes[source] - begin)))
            found.within[part] = (source, begin)
            found.steps.append(Step("slice", (source,), part))
        else:
            read = tuple(draw(st.lists(st.sampled_from(every), max_size=3, unique=True))) if every else ()
            may = [i for i in read if draw(st.booleans())]
            others = {found.root(i) for i in read if i not in may}
            roots = dict.fromkeys(found.root(i) for i in may if found.root(i) not in others)
            like = [found.sizes[i] for i in roots] or [
                draw(st.integers(1, 5)) * ALIGNMENT - draw(st.sampled_from([0, 8]))
            ]
            found.steps.append(Step("kernel", read, found.tensor(draw(st.sampled_from(like))), tuple(roots)))
    return found


@given(programmes())
@settings(max_examples=300)
def test_every_read_finds_what_was_written(programme: Programme) -> None:
    buffers = programme.buffers()
    arena = plan_arena(buffers, programme.within)
    memory = np.zeros(arena.size_bytes, np.uint8)
    rng = np.random.default_rng(0)
    contents: dict[int, Any] = {}

    def place(index: int) -> slice:
        begin = arena.offsets[index]
        assert begin % ALIGNMENT == 0 and 0 <= begin <= arena.size_bytes - programme.sizes[index]
        return slice(begin, begin + programme.sizes[index])

    for number, step in enumerate(programme.steps):
        for index in step.read:
            np.testing.assert_array_equal(memory[place(index)], contents[index], f"step {number}: tensor {index}")
        if step.kind == "join":
            contents[step.written] = np.concatenate([contents[index] for index in step.read])
        elif step.kind == "slice":
            begin = programme.within[step.written][1]
            contents[step.written] = contents[step.read[0]][begin : begin + programme.sizes[step.written]]
        else:
            contents[step.written] = rng.integers(1, 256, programme.sizes[step.written], np.uint8)
            memory[place(step.written)] = contents[step.written]
            event("in place" if any(place(i) == place(step.written) for i in step.in_place) else "apart")
        np.testing.assert_array_equal(memory[place(step.written)], contents[step.written])


@given(programmes())
def test_bounds(programme: Programme) -> None:
    arena = plan_arena(programme.buffers(), programme.within)
    assert arena.lower_bound_bytes <= arena.size_bytes
    assert arena == plan_arena(programme.buffers(), programme.within)
