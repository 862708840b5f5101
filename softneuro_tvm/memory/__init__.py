"""Where activations lie: buffers with lifetimes get offsets in one arena. Needs numpy only."""

from softneuro_tvm.memory.arena import Arena, plan_arena
from softneuro_tvm.memory.buffers import ALIGNMENT, Buffer, aligned, lower_bound

__all__ = ["ALIGNMENT", "Arena", "Buffer", "aligned", "lower_bound", "plan_arena"]
