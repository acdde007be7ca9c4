"""Tokens of requests to an emulated cluster, as their clients get them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

from emulator.requests import Outcome, Request
from scenarios.cluster_clock import ClusterClock


class Token(NamedTuple):
    """One token of a stream: its number from 0, and when the client had it, in emulated seconds."""

    number: int
    time_s: float


class RequestError(Exception):
    """A request that ended without all of its tokens.

    Attributes:
        outcome: ``rejected`` or ``failed``.
        reason: Why.
    """

    def __init__(self, request: Request) -> None:
        self.outcome, self.reason = str(request.outcome), request.reason
        super().__init__(f"request {request.number} was {self.outcome}: {self.reason}")


class TokenStream:
    """The tokens of one request as they come: ``async for token in stream``.

    Attributes:
        request: The request, with its times and its outcome so far.
    """

    def __init__(self, request: Request, clock: ClusterClock) -> None:
        self.request = request
        self._clock = clock
        self._tokens: deque[Token] = deque()
        self._count = 0
        self._readers: list[asyncio.Future[None]] = []

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        """The next token.

        Raises:
            RequestError: The request was rejected or has failed; tokens that had come before are given first.
        """
        while not self._tokens:
            if self.request.outcome is not Outcome.IN_FLIGHT:
                if self.request.outcome is Outcome.FINISHED:
                    raise StopAsyncIteration
                raise RequestError(self.request)
            reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._readers.append(reader)
            await self._clock.wait(reader)
        return self._tokens.popleft()

    async def rest(self) -> list[Token]:
        """All tokens that are still to come; raises RequestError as iterating does."""
        return [token async for token in self]

    def put(self, time_s: float) -> None:
        """A token has come."""
        self._tokens.append(Token(self._count, time_s))
        self._count += 1
        self.wake()

    def wake(self) -> None:
        """Something has happened that a reader may wait for."""
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
        self._readers.clear()
