"""The cheapest cluster from a catalogue that meets the conditions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from scenarios.changes import Change
from scenarios.errors import ScenarioError
from scenarios.schema_cluster import NodeSection
from scenarios.studies.axes import Cell
from scenarios.studies.engine import Row, Search, Steps, by
from scenarios.studies.errors import StudyError
from scenarios.studies.max_rate import meets
from scenarios.studies.points import Point
from scenarios.studies.prices import PriceTable, price_table
from scenarios.studies.schema import MinCostSection, OfferSection
from scenarios.studies.sweep import Prepared, Question
from scenarios.tree import Plain, Tree, from_plain

Counts: TypeAlias = tuple[int, ...]
"""Nodes of each entry of the catalogue, in its order."""

RANDOM_TARGETS = ("crash", "preempt", "straggler")
UNFINISHED = "not finished"
"""Status of the answer of a search that was stopped."""
ENUMERATED = 200_000
"""Most clusters of a catalogue of which it is told whether any cheaper one is left."""


@dataclass(slots=True)
class Knowledge:
    """What is known of a catalogue's clusters.

    Attributes:
        prices: Price per node-hour of each entry.
        monotone: Whether fewer nodes carry less.
        unreliable: Entries that may fail: more of them can do harm, so only clusters with equally many are compared.
        tried: Cluster -> whether it meets the conditions.
        best: The cheapest that does.
    """

    prices: tuple[float, ...]
    monotone: bool
    unreliable: tuple[bool, ...] = ()
    tried: dict[Counts, bool] = field(default_factory=dict)
    best: Counts | None = None

    def cost(self, counts: Counts) -> float:
        """Price of a cluster for an hour, in whole billionths so that sums compare."""
        return round(sum(count * price for count, price in zip(counts, self.prices, strict=True)), 9)

    def learn(self, counts: Counts, good: bool) -> None:
        """A cluster was tried."""
        self.tried[counts] = good
        if good and (self.best is None or self.cost(counts) < self.cost(self.best)):
            self.best = counts

    def verdict(self, counts: Counts) -> bool | None:
        """Whether a cluster meets the conditions, as far as it is known or follows; ``None`` when it must be tried."""
        if counts in self.tried:
            return self.tried[counts]
        if not any(counts):
            return False
        if self.monotone and any(not good and self._within(counts, other) for other, good in self.tried.items()):
            return False
        return None

    def _within(self, counts: Counts, other: Counts) -> bool:
        """Whether a cluster has nothing that the other one lacks."""
        pairs = zip(counts, other, self.unreliable or (False,) * len(counts), strict=True)
        return all(mine == theirs if unreliable else mine <= theirs for mine, theirs, unreliable in pairs)

    def worthwhile(self, counts: Counts) -> bool:
        """Whether a cluster must be tried: it is cheaper than the best one, and nothing is known of it."""
        return (self.best is None or self.cost(counts) < self.cost(self.best)) and self.verdict(counts) is None


class MinCost(Question):
    """Optuna proposes clusters; what cannot be better, or cannot do, is not run; then single nodes are taken away.

    A cluster is good when every seed meets the conditions; seeds are run one after the other, and the first that fails
    settles it. Random failures of a group that is not bought are left out. With ``monotone``, a cluster that has no
    more nodes of any kind than one that failed fails, too; of kinds that fail at random it must have equally many,
    since those can do harm.
    """

    @property
    def section(self) -> MinCostSection:
        """What is asked."""
        section = self.definition.section.question
        assert isinstance(section, MinCostSection)
        return section

    @property
    def _table(self) -> PriceTable:
        assert self.definition.section.prices is not None, "the schema asks for them"
        return price_table(self.definition.section.prices)

    @property
    def prices(self) -> PriceTable:
        """The prices; which nodes are spot is what the catalogue says, not the price table."""
        spot = [
            name
            for nodes in self._groups(tuple(offer.at_most for offer in self.section.catalogue.values()))
            if self.section.catalogue[str(nodes["name"])].spot
            for name in NodeSection.model_validate(nodes).names()
        ]
        return replace(self._table, spot_nodes=tuple(spot))

    def check_first(self) -> None:
        """Every entry of the catalogue has a price.

        Raises:
            StudyError: One has none.
        """
        for name, offer in self.section.catalogue.items():
            self._price(name, offer)

    def _price(self, name: str, offer: OfferSection) -> float:
        try:
            return self._table.node_price(name, offer.machine, spot=offer.spot)
        except KeyError:
            kind = "spot price" if offer.spot else "price"
            raise StudyError(f"prices.nodes has no {kind} of {offer.machine}, which the catalogue offers") from None

    def searches(self) -> Iterator[Search]:
        """One for each cell."""
        for cell in self.definition.cells:
            yield Search(steps=self._steps(cell), expected=self.section.clusters * len(self.seeds))

    def _steps(self, cell: Cell) -> Steps:
        known = self.knowledge(monotone=self.section.monotone, unreliable=self._unreliable(cell))
        error = yield from self._searched(cell, known)
        return self._answer(cell, known, self._status(known), error)

    def knowledge(self, *, monotone: bool = False, unreliable: tuple[bool, ...] = ()) -> Knowledge:
        """The catalogue's clusters, nothing known of them yet."""
        prices = tuple(self._price(name, offer) for name, offer in self.section.catalogue.items())
        return Knowledge(prices=prices, monotone=monotone, unreliable=unreliable)

    def counts(self, row: Row) -> Counts:
        """The cluster of a run, or of an answer that has one."""
        return tuple(row[name] for name in self.section.catalogue)

    def so_far(self, rows: Sequence[Row]) -> list[Row]:
        """The cheapest cluster that all seeds have met the conditions with; nothing is told of what is left."""
        answers: list[Row] = []
        in_cell = by(rows, lambda row: int(row["cell"]))
        for cell in self.definition.cells:
            known, error = self.knowledge(), None
            for counts, tried in by(in_cell.get(cell.number, ()), self.counts).items():
                good = [meets(row, self.definition.meets) for row in tried]
                error = next((str(row["error"]) for row in tried if row["error"]), error)
                # The first seed that fails settles it.
                if not all(good) or len(good) == len(self.seeds):
                    known.learn(counts, all(good))
            answers.append(self._answer(cell, known, UNFINISHED, error))
        return answers

    def _answer(self, cell: Cell, known: Knowledge, status: str, error: str | None) -> Row:
        row: Row = self.columns(cell)
        row["cost_per_h"] = None if known.best is None else known.cost(known.best)
        for index, name in enumerate(self.section.catalogue):
            row[name] = None if known.best is None else known.best[index]
        row["status"] = status
        row["clusters"] = len(known.tried)
        row["error"] = error if known.best is None else None
        return row

    def _unreliable(self, cell: Cell) -> tuple[bool, ...]:
        """Which offers fail at random in a cell."""
        try:
            churn = self.maker.make(cell).plain.get("churn")
        except ScenarioError:
            # Whatever is wrong is told by the cell's points.
            churn = None
        random = _listed(churn["random"]) if isinstance(churn, dict) and "random" in churn else []
        targets = [target for entry in random if (target := _target(entry)) is not None]
        return tuple(
            any(not isinstance(each, str) or fnmatchcase(f"{name}-0", each) for each in targets)
            for name in self.section.catalogue
        )

    def _searched(self, cell: Cell, known: Knowledge) -> Generator[list[Point], list[Row], str | None]:
        """Fill ``known``; returns why the last cluster that could not run could not."""
        error: str | None = None
        for propose in (self._whole, self._sampled, self._neighbours, self._remaining):
            proposals = propose(known)
            counts = next(proposals, None)
            while counts is not None and len(known.tried) < self.section.clusters:
                if known.worthwhile(counts):
                    good, why = yield from self._tried(cell, counts)
                    known.learn(counts, good)
                    error = why or error
                counts = next(proposals, None)
            proposals.close()
        return error

    def _whole(self, known: Knowledge) -> Generator[Counts, None, None]:
        """The whole catalogue, and all of it that does not fail at random, which may carry what the whole does not."""
        offers = list(self.section.catalogue.values())
        yield tuple(offer.at_most for offer in offers)
        if any(known.unreliable):
            pairs = zip(offers, known.unreliable, strict=True)
            yield tuple(offer.at_least if unreliable else offer.at_most for offer, unreliable in pairs)

    def _sampled(self, known: Knowledge) -> Generator[Counts, None, None]:
        """What Optuna's sampler proposes, knowing costs and failures so far; half of the clusters at most."""
        optuna = _optuna()
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self.section.seed, n_startup_trials=8))
        limit = max(2, self.section.clusters // 2)
        for _ in range(10 * limit):
            if len(known.tried) >= limit:
                return
            trial = study.ask()
            counts = tuple(
                trial.suggest_int(name, offer.at_least, offer.at_most) for name, offer in self.section.catalogue.items()
            )
            yield counts
            # What is too dear to be worth a run is taken for good, which its cost makes worth nothing.
            trial.set_constraint("conditions", 1.0 if known.verdict(counts) is False else -1.0)
            study.tell(trial, known.cost(counts))

    def _neighbours(self, known: Knowledge) -> Generator[Counts, None, None]:
        """From the best cluster, one node less, dearest first, or one exchanged for a cheaper one, while that helps."""
        offers = list(self.section.catalogue.values())
        start = None
        while known.best is not None and known.best != start:
            start = known.best
            moves = [
                _moved(start, less, more)
                for less in range(len(offers))
                for more in (None, *range(len(offers)))
                if less != more
            ]
            allowed = [
                counts
                for counts in moves
                if all(offer.at_least <= count <= offer.at_most for count, offer in zip(counts, offers, strict=True))
            ]
            yield from sorted(allowed, key=lambda each: (known.cost(each), each))

    def _remaining(self, known: Knowledge) -> Generator[Counts, None, None]:
        """Everything cheaper that is left, the most capable first: one that fails settles many others."""
        if self._size() > ENUMERATED:
            return
        while True:
            left = [counts for counts in self._clusters() if known.worthwhile(counts)]
            if not left:
                return
            yield max(left, key=lambda counts: (known.cost(counts), counts))

    def _clusters(self) -> Iterator[Counts]:
        return itertools.product(
            *(range(offer.at_least, offer.at_most + 1) for offer in self.section.catalogue.values())
        )

    def _size(self) -> int:
        return math.prod(offer.at_most - offer.at_least + 1 for offer in self.section.catalogue.values())

    def _status(self, known: Knowledge) -> str:
        """What the answer is worth."""
        complete = self._size() <= ENUMERATED and not any(known.worthwhile(counts) for counts in self._clusters())
        if known.best is None:
            return "none meets the conditions" if complete else "none found"
        return "cheapest" if complete else "best found"

    def _tried(self, cell: Cell, counts: Counts) -> Generator[list[Point], list[Row], tuple[bool, str | None]]:
        """Whether a cluster meets the conditions for every seed, and why it could not run."""
        columns = dict(zip(self.section.catalogue, counts, strict=True))
        prepared = _without_absent(self.prepare(cell, (self._nodes(counts),), columns))
        for seed in self.seeds:
            [row] = yield [self.point(prepared, seed)]
            if not meets(row, self.definition.meets):
                return False, row["error"]
        return True, None

    def _nodes(self, counts: Counts) -> Change:
        """The cluster's nodes, group by group."""
        origin = self.definition.tree.nearest(("question", "catalogue")).origin
        tree: Tree = from_plain(self._groups(counts), origin)
        return Change(("cluster", "nodes"), tree)

    def _groups(self, counts: Counts) -> list[dict[str, Plain]]:
        """The groups of nodes that a cluster has any of, as a scenario has them."""
        return [
            {"name": name, "machine": offer.machine, "region": offer.region, "count": count}
            for (name, offer), count in zip(self.section.catalogue.items(), counts, strict=True)
            if count
        ]


def _without_absent(prepared: Prepared) -> Prepared:
    """The cell without random failures of nodes that were not bought; a scenario may not name such nodes."""
    churn = None if prepared.scenario is None else prepared.scenario.plain.get("churn")
    if prepared.scenario is None or not isinstance(churn, dict) or not isinstance(churn.get("random"), list):
        return prepared
    cluster = prepared.scenario.plain["cluster"]
    assert isinstance(cluster, dict), "the schema has passed it"
    names = [name for group in _listed(cluster["nodes"]) for name in NodeSection.model_validate(group).names()]
    listed: list[Plain] = []
    for entry in _listed(churn["random"]):
        target = _target(entry)
        if not isinstance(target, str) or any(fnmatchcase(name, target) for name in names):
            listed.append(entry)
    plain = prepared.scenario.changed({("churn", "random"): listed})
    return replace(prepared, scenario=replace(prepared.scenario, plain=plain))


def _target(entry: Plain) -> Plain:
    """Whom random failures hit."""
    return next((entry[kind] for kind in RANDOM_TARGETS if isinstance(entry, dict) and kind in entry), None)


def _listed(part: Plain) -> list[Plain]:
    assert isinstance(part, list), "the schema has passed it"
    return part


def _moved(counts: Counts, less: int, more: int | None) -> Counts:
    """A cluster with one node less of one kind, and one more of another."""
    return tuple(count - (index == less) + (index == more) for index, count in enumerate(counts))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise StudyError("min_cost needs Optuna; install helix-emulator[study]") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
