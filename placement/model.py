"""The served model, reduced to the figures that placement and emulation need."""

from __future__ import annotations

from dataclasses import dataclass

from placement.errors import PlanError
from placement.numbers import require


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One transformer model.

    Attributes:
        name: Name by which profiles refer to it, for instance ``llama-2-70b``.
        layers: Number of identical layers.
        hidden_size: Width of the activations.
        layer_bytes: Weight bytes of one layer.
        token_bytes: Bytes that one token costs on a link to or from the coordinator.
        activation_bytes: Bytes of one token's activation between two nodes; 16-bit activations
            of ``hidden_size`` values when left at 0.
        kv_bytes: Bytes of one token's KV entry in one layer; two 16-bit vectors of ``hidden_size`` values when left
            at 0 (less with grouped-query attention).
    """

    name: str
    layers: int
    hidden_size: int
    layer_bytes: float
    token_bytes: float = 2.0
    activation_bytes: float = 0.0
    kv_bytes: float = 0.0

    def __post_init__(self) -> None:
        problems: list[str] = []
        require(problems, f"model {self.name}", "layers", self.layers, minimum=1)
        require(problems, f"model {self.name}", "hidden_size", self.hidden_size, minimum=1)
        require(problems, f"model {self.name}", "layer_bytes", self.layer_bytes, above=0)
        require(problems, f"model {self.name}", "token_bytes", self.token_bytes, above=0)
        require(problems, f"model {self.name}", "activation_bytes", self.activation_bytes, minimum=0)
        require(problems, f"model {self.name}", "kv_bytes", self.kv_bytes, minimum=0)
        if problems:
            raise PlanError(problems)
        if self.activation_bytes == 0:
            object.__setattr__(self, "activation_bytes", 2.0 * self.hidden_size)
        if self.kv_bytes == 0:
            object.__setattr__(self, "kv_bytes", 4.0 * self.hidden_size)

    @property
    def hop_bytes(self) -> float:
        """Bytes of one token on a link between two compute nodes (token id and activation)."""
        return self.token_bytes + self.activation_bytes
