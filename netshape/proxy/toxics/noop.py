"""``noop``: passes everything on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netshape.proxy.stages import Place, Stage
from netshape.proxy.toxics.toxic import Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Noop(Attributes):
    """No attributes, no effect."""

    TYPE: ClassVar[str] = "noop"

    def stage(self, place: Place, name: str) -> Stage:
        """A stage that does nothing."""
        return Stage(place)
