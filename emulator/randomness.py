"""Random draws that depend on the scenario seed and the component's name alone."""

from netshape.randomness import generator

__all__ = ["generator"]
