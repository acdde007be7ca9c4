"""A client's request, and the attempt that carries it through the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from emulator.pipeline import Pipeline, Stage, stages_of

if TYPE_CHECKING:
    from emulator.links import EmulatedLink


class Outcome(StrEnum):
    """How a request ended, or that it has not yet."""

    FINISHED = "finished"
    REJECTED = "rejected"
    FAILED = "failed"
    IN_FLIGHT = "in_flight"


class Request:
    """What a client asked for and what became of it.

    Attributes:
        number: Running number from 0 in order of arrival.
        arrival_s: When it reached the coordinator.
        prompt_tokens: Length of the prompt.
        output_tokens: Tokens to generate.
        outcome: How it ended.
        reason: Why it was rejected or failed.
        admitted_s: When it first got a pipeline.
        first_token_s: When its first token was back at the coordinator.
        last_token_s: When its latest token was back at the coordinator.
        end_s: When it ended.
        emitted_tokens: Tokens given to the client.
        adopted_tokens: Tokens that it had emitted when a warm start put it in place.
        recomputed_tokens: Tokens whose KV entries were lost and computed again.
        preemptions: How often it lost its KV cache.
        retries: How often it lost its pipeline.
        pipeline: Its latest pipeline.
    """

    __slots__ = (
        "admitted_s",
        "adopted_tokens",
        "arrival_s",
        "emitted_tokens",
        "end_s",
        "first_token_s",
        "last_token_s",
        "number",
        "outcome",
        "output_tokens",
        "pipeline",
        "preemptions",
        "prompt_tokens",
        "reason",
        "recomputed_tokens",
        "retries",
    )

    def __init__(self, number: int, arrival_s: float, prompt_tokens: int, output_tokens: int) -> None:
        self.number = number
        self.arrival_s = arrival_s
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.outcome = Outcome.IN_FLIGHT
        self.reason = ""
        self.admitted_s: float | None = None
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self.end_s: float | None = None
        self.emitted_tokens = 0
        self.adopted_tokens = 0
        self.recomputed_tokens = 0
        self.preemptions = 0
        self.retries = 0
        self.pipeline: Pipeline | None = None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: first token back at the coordinator minus arrival; none if that was before the run."""
        return None if self.first_token_s is None or self.adopted_tokens else self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> float | None:
        """End-to-end time: last token minus arrival; none for requests that a warm start put in place."""
        return None if self.end_s is None or self.adopted_tokens else self.end_s - self.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; none for requests of one token.

        Of a request that a warm start put in place only the tokens of this run count.
        """
        if self.adopted_tokens and self.end_s is not None:
            return (self.end_s - self.arrival_s) / (self.output_tokens - self.adopted_tokens)
        if self.end_s is None or self.first_token_s is None or self.output_tokens < 2:
            return None
        return (self.end_s - self.first_token_s) / (self.output_tokens - 1)


class Attempt:
    """One walk of a request along a pipeline: a prefill, then decode iterations until done, preempted or failed.

    Attributes:
        request: The request that it serves.
        tokens: Tokens that each layer computes in this iteration.
        prefill: Whether this iteration is the prefill.
        context: Tokens whose KV entries earlier iterations left on every stage.
        left: Decode iterations still to do after the current one is back.
        started_s: When the coordinator issued this iteration.
        hop: Stages completed in this iteration.
        links: Node index -> link to take from there; shared by all attempts on one pipeline.
        pipeline: The pipeline; while a per-hop policy is still choosing, ``None``.
        special: The next token needs bookkeeping beyond a plain decode's.
        dead: Preempted or failed: whoever meets it drops it.
        lost: It went down with a machine, and nobody holds it; who admitted it may not know yet.
    """

    __slots__ = (
        "context",
        "dead",
        "first_link",
        "hop",
        "left",
        "links",
        "lost",
        "pipeline",
        "prefill",
        "request",
        "special",
        "started_s",
        "tokens",
    )

    def __init__(self, request: Request, tokens: int, left: int, now_s: float) -> None:
        self.request = request
        self.tokens = tokens
        self.prefill = True
        self.context = 0
        self.left = left
        self.started_s = now_s
        self.hop = 0
        self.first_link: EmulatedLink | None = None
        self.links: Mapping[int, EmulatedLink] = {}
        self.pipeline: Pipeline | None = None
        self.special = False
        self.dead = False
        self.lost = False

    def path(self) -> tuple[EmulatedLink, ...]:
        """Links chosen so far, from the coordinator on."""
        path: list[EmulatedLink] = []
        link = self.first_link
        while link is not None:
            path.append(link)
            link = None if link.node is None else self.links.get(link.node.index)
        return tuple(path)

    def stages(self) -> tuple[Stage, ...]:
        """Stages of the pipeline, as far as it is chosen."""
        return self.pipeline.stages if self.pipeline is not None else stages_of(self.path())
