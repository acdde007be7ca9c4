"""Random draws that depend on a seed and a component's name alone."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, component: str) -> np.random.Generator:
    """A generator for ``component``; another component or seed gives an independent stream."""
    digest = hashlib.sha256(f"{seed}\x00{component}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
