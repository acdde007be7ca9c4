"""Emulated clusters in real time: bytes travel over sockets, and everything comes as in virtual time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from scenarios.emulated_cluster import EmulatedCluster, Token

DILATION = 8.0
"""Emulated seconds a second, so that time-outs of seconds are over soon."""


async def story(**clock: Any) -> tuple[list[Token], list[Token], dict[str, int]]:
    """A request, a crash, and a request that waits until the machine is back."""
    async with EmulatedCluster("quickstart", workload=False, **clock) as cluster:
        stream = await cluster.submit(prompt_tokens=100, output_tokens=8)
        first = await stream.rest()
        await cluster.run_for("200 ms")
        await cluster.crash("t4-0", duration="1 s")
        stream = await cluster.submit(prompt_tokens=100, output_tokens=4)
        second = await stream.rest()
        return first, second, cluster.metrics["churn.kinds"]


def test_tokens_are_those_of_virtual_time() -> None:
    """When things are asked for depends on the wall's clock; what takes how long does not."""
    virtual, real = asyncio.run(story()), asyncio.run(story(clock="real", dilation=DILATION))
    for planned, came in zip(virtual[:2], real[:2], strict=True):
        assert [token.number for token in came] == [token.number for token in planned]
    gaps = [[token.time_s - tokens[0].time_s for token in tokens] for tokens, *_ in (virtual, real)]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-6)
    assert virtual[2] == real[2] == {"crash": 1, "join": 1}


async def test_time_is_the_walls() -> None:
    async with EmulatedCluster("quickstart", clock="real", dilation=DILATION) as cluster:
        begun_s = time.monotonic()
        await cluster.run_for("4 s")
        assert time.monotonic() - begun_s >= 4 / DILATION - 0.001
        with pytest.raises(TimeoutError, match="the condition did not hold within 1 s"):
            await cluster.until(lambda metrics: metrics.failed, timeout="1 s")
        assert time.monotonic() - begun_s >= 5 / DILATION - 0.001
        assert cluster.now_s >= 5


async def test_links_change_while_bytes_travel() -> None:
    async with EmulatedCluster("quickstart", workload=False, clock="real", dilation=DILATION) as cluster:
        entry = next(link.wire.target for link in cluster._state.entry_links)
        before = await cluster.submit(prompt_tokens=10, output_tokens=1)
        await before.rest()
        await cluster.link("coordinator", entry).set(latency="501 ms")
        after = await cluster.submit(prompt_tokens=10, output_tokens=1)
        await after.rest()
        assert before.request.ttft_s is not None
        assert after.request.ttft_s is not None
        # In a real cluster's words: half a second more on the way in.
        assert after.request.ttft_s - before.request.ttft_s == pytest.approx(0.5, abs=1e-6)
