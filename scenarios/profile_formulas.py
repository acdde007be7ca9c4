"""The formulas of a profile file: what a machine can hold and batch, given the layers that it serves.

Pure functions, used where profiles are read (``scenarios.schema``) and where they are fitted (``scenarios.fitting``).
"""

from __future__ import annotations

import math


def kv_blocks(numerator: float, offset: float, layers: int) -> int:
    """KV blocks per held layer.

    The memory that weights leave over, split between the held layers: ``(usable - layers * weights) / block_bytes /
    layers``. With ``numerator = usable / block_bytes`` and ``offset = weights / block_bytes`` that is
    ``floor(numerator / layers - offset)``.

    Args:
        numerator: Usable GPU memory in KV blocks of one layer.
        offset: Weights of one layer in KV blocks.
        layers: Held layers, at least 1.

    Returns:
        Blocks per layer; below 1 when the weights leave no room.
    """
    return math.floor(numerator / layers - offset)


def decode_limit(
    kv_tokens_per_layer: float,
    *,
    cap: int,
    context_tokens: float,
    step: int = 1,
    small_step: int = 1,
    small_below: float = 0.0,
) -> int:
    """Most decoding sequences in one batch: as many contexts as the KV cache holds, rounded down to a step.

    Args:
        kv_tokens_per_layer: KV capacity of one layer, in tokens.
        cap: Never more than this.
        context_tokens: Tokens of context that one sequence holds.
        step: The number of contexts is rounded down to a multiple of this.
        small_step: Used instead of ``step`` when fewer than ``small_below`` contexts fit.
        small_below: Contexts (before rounding) under which ``small_step`` counts; 0 for never.

    Returns:
        Sequences, 1 to ``cap``. Less than one whole step is rounded down to a whole sequence.
    """
    contexts = kv_tokens_per_layer / context_tokens
    multiple = small_step if contexts < small_below else step
    rounded = math.floor(contexts / multiple) * multiple or math.floor(contexts)
    return max(1, min(cap, rounded))
