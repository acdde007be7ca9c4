"""What the planner side can complain about."""

from __future__ import annotations

from collections.abc import Sequence


class PlanError(ValueError):
    """A cluster, profile or placement that cannot work.

    Attributes:
        problems: One sentence per problem, each naming what, where, the rule and the remedy.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))
