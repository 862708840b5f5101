"""Plans written by hand: a chain or a branching network of any size, with conversions, covers and hostile names."""

from __future__ import annotations

from softneuro_tvm.formats import Format
from softneuro_tvm.plan import AdapterChoice, Alternative, LayerChoice, Plan
from softneuro_tvm.routine import Variant

KINDS = ("conv2d", "pool2d", "elementwise", "concat")
PLAIN, BLOCKED = Format("NCHW"), Format("NCHW16c")


def layer(
    name: str, index: int, *inputs: str, formats: tuple[Format, ...] = (), covers: tuple[str, ...] = ()
) -> LayerChoice:
    """A layer that writes the tensor of its name, blocked, with two other candidates and a rejected one."""
    kind = KINDS[index % len(KINDS)]
    seconds = 1e-4 * (1 + index % 5)
    return LayerChoice(
        layer=name,
        kind=kind,
        workload=f"{index:016x}",
        routine=f"{kind}/direct",
        variant=Variant((("rows", 2),), formats or (BLOCKED,) * len(inputs), (BLOCKED,)),
        descriptor="cpu:float32:nchw16c/direct/rows=2",
        median_s=seconds,
        spread=0.04,
        alternatives=(
            Alternative(f"{kind}/tiled", "cpu:float32:nchw8c/tiled/rows=7", 1.5 * seconds, 0.9, 0.1, True),
            Alternative(f"{kind}/guess", "cpu:float32:nchw/guess", 9 * seconds, 0.95, 0.0, False),
        ),
        rejected=((f"{kind}/broken", "wrong: relative error 0.5\nsecond line"),),
        covers=covers,
        inputs=inputs,
        outputs=(name,),
        error=1.25e-6,
    )


def adapter(tensor: str, source: Format, target: Format) -> AdapterChoice:
    """A conversion of 10 microseconds."""
    return AdapterChoice(tensor, source, target, "layout_cast/transposed", Variant((), (source,), (target,)), 1e-5)


def plan(layers: tuple[LayerChoice, ...], adapters: tuple[AdapterChoice, ...] = (), **changes: object) -> Plan:
    """A plan with these layers; the sum of their times is predicted."""
    predicted = sum(work.median_s for work in (*layers, *adapters))
    values = {
        "model": "made up",
        "graph": "0123456789abcdef",
        "device": {"name": "host", "part": "AMD <EPYC>", "target": {"kind": "llvm", "mcpu": "znver5"}, "threads": 2},
        "predicted_s": predicted,
        "lower_bound_s": predicted,
        "method": "elimination",
        "comparison": {"greedy": 1.3 * predicted, "single_layout:NCHW": 2 * predicted},
    }
    return Plan(layers=layers, adapters=adapters, **(values | changes))  # type: ignore[arg-type]


def branching(count: int, **changes: object) -> Plan:
    """Every layer reads the one before it and, at times, an early one; the first and last tensors are converted."""
    layers = [layer("layer0", 0, "x")]
    for index in range(1, count):
        reads = [f"layer{index - 1}"]
        if index % 3 == 0:
            reads.append(f"layer{index // 2}")
        layers.append(layer(f"layer{index}", index, *dict.fromkeys(reads)))
    adapters = (adapter("x", PLAIN, BLOCKED), adapter(f"layer{count - 1}", BLOCKED, PLAIN))
    return plan(tuple(layers), adapters, **changes)
