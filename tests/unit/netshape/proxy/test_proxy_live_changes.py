"""Whatever changes while bytes are under way: none is lost, doubled or overtaken."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipe_rig import Recorder, on_jumping_loop, toxic

from netshape.clock import NicClock
from netshape.conditions import GilbertElliottLoss, IndependentLoss, Jitter, LinkConditions
from netshape.link_metrics import LinkMetrics
from netshape.link_model import ConditionedClock
from netshape.proxy.delays import HORIZON_S, PIECE_S, Channel
from netshape.proxy.stages import End

ATTRIBUTES = {
    "latency": st.fixed_dictionaries({"latency": st.integers(0, 500), "jitter": st.integers(0, 300)}),
    "bandwidth": st.fixed_dictionaries({"rate": st.integers(0, 500)}),
    "slow_close": st.fixed_dictionaries({"delay": st.integers(0, 500)}),
    "slicer": st.fixed_dictionaries(
        {"average_size": st.integers(100, 5000), "size_variation": st.integers(0, 99), "delay": st.integers(0, 3000)}
    ),
    "limit_data": st.just({"bytes": 1 << 40}),
    "noop": st.just({}),
}
CONDITIONS = st.builds(
    LinkConditions,
    bandwidth_bytes_per_s=st.sampled_from([1e4, 1e5, 1e7, float("inf")]),
    latency_s=st.sampled_from([0.0, 0.01, 0.3]),
    jitter=st.sampled_from([None, Jitter(spread_s=0.1), Jitter(spread_s=0.05, distribution="pareto", correlation=0.5)]),
    loss=st.sampled_from([None, IndependentLoss(probability=0.1), GilbertElliottLoss(to_bad=0.05, to_good=0.5)]),
    mtu_bytes=st.sampled_from([None, 1448]),
    queue_limit_bytes=st.sampled_from([float("inf"), 3000]),
    up=st.sampled_from([True, True, True, False]),
)
TOXICS = st.sampled_from(sorted(ATTRIBUTES)).flatmap(lambda kind: st.tuples(st.just(kind), ATTRIBUTES[kind]))
TOXICITY = st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.integers(1, 20_000)),
        st.tuples(st.just("feed"), st.integers(1, 20_000)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.1, 0.4])),
        st.tuples(st.just("add"), TOXICS, TOXICITY),
        st.tuples(st.just("change"), st.integers(0, 9), TOXICITY, st.data()),
        st.tuples(st.just("remove"), st.integers(0, 9)),
        st.tuples(st.just("link"), st.one_of(st.none(), CONDITIONS)),
        st.tuples(st.just("conditions"), CONDITIONS),
    ),
    min_size=5,
    max_size=30,
)
FIRST = st.lists(
    st.tuples(
        st.sampled_from(["latency", "bandwidth", "slicer"]).flatmap(
            lambda kind: st.tuples(st.just(kind), ATTRIBUTES[kind])
        ),
        st.just(1.0),
    ).map(lambda pair: ("add", *pair)),
    max_size=3,
)
LINK = st.one_of(st.none(), CONDITIONS).map(lambda conditions: [("link", conditions)])


def channel(conditions: LinkConditions, **options: object) -> Channel:
    clock = ConditionedClock(conditions, name="link", seed=1, sender=options.pop("sender", None))  # type: ignore[arg-type]
    return Channel(asyncio.get_running_loop(), clock, metrics=LinkMetrics(), **options)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(
    steps=st.tuples(LINK, FIRST, STEPS).map(lambda parts: [*parts[0], *parts[1], *parts[2]]), end_early=st.booleans()
)
def test_changes_amid_a_stream_keep_it_whole(steps: list[tuple], end_early: bool) -> None:  # type: ignore[type-arg]
    async def test() -> None:
        rig = Recorder()
        sent = bytearray()
        on: dict[str, str] = {}
        link: Channel | None = None
        for number, (act, *rest) in enumerate(steps):
            if act == "feed":
                data = bytes((len(sent) + offset) * 31 % 251 for offset in range(rest[0]))
                sent += data
                rig.pipe.feed(data)
            elif act == "wait":
                await asyncio.sleep(rest[0])
            elif act == "add":
                (kind, attributes), toxicity = rest
                on[str(number)] = kind
                rig.pipe.add(toxic(kind, str(number), toxicity, **attributes))
            elif act in ("change", "remove") and on:
                name = list(on)[rest[0] % len(on)]
                if act == "remove":
                    del on[name]
                    rig.pipe.remove(name)
                else:
                    attributes = rest[2].draw(ATTRIBUTES[on[name]])
                    rig.pipe.update(toxic(on[name], name, rest[1], **attributes))
            elif act == "link":
                link = None if rest[0] is None else channel(rest[0])
                rig.pipe.set_link(link)
            elif act == "conditions" and link is not None:
                link.set(rest[0])
            assert bytes(sent).startswith(rig.data)
            assert len(rig.data) + rig.pipe.held_bytes == len(sent)
        if end_early:
            rig.pipe.feed_end(End.HALF)
            await asyncio.sleep(0.1)
        for name in on:
            rig.pipe.remove(name)
        if link is not None:
            link.set(LinkConditions())
        if not end_early:
            rig.pipe.feed_end(End.HALF)
        await asyncio.sleep(10_000)
        assert rig.data == bytes(sent)
        assert [how for _, how in rig.ends] == [End.HALF]
        assert rig.pipe.held_bytes == 0
        assert rig.pipe.full is False
        assert rig.metrics.dropped_bytes == 0

    on_jumping_loop(test)


def test_pipes_on_one_link_take_turns() -> None:
    async def test() -> None:
        link = channel(LinkConditions(bandwidth_bytes_per_s=1e5, latency_s=0.05))
        rigs = [Recorder(link=link) for _ in range(4)]
        rigs[0].pipe.feed(bytes(64_000))
        rigs[0].pipe.feed(bytes(64_000))
        for rig in rigs[1:]:
            rig.pipe.feed(bytes(10_000))
        await asyncio.sleep(0.35)
        # 30 kB went out, and nobody waits for the one who came first with more.
        shares = [len(rig.data) for rig in rigs]
        assert sum(shares) == pytest.approx(30_000, rel=0.02)
        assert max(shares) - min(shares) <= 1e5 * (HORIZON_S + 2 * PIECE_S)
        await asyncio.sleep(2)
        assert [len(rig.data) for rig in rigs] == [128_000, 10_000, 10_000, 10_000]
        last = max(rig.out[-1][0] for rig in rigs)
        assert last == pytest.approx(158_000 / 1e5 + 0.05)
        assert all(rig.held[-1][1] is False for rig in rigs)

    on_jumping_loop(test)


def test_a_link_that_slows_down_concerns_what_it_has_not_sent() -> None:
    async def test() -> None:
        link = channel(LinkConditions(bandwidth_bytes_per_s=1e6, latency_s=0.1))
        rig = Recorder(link=link)
        rig.pipe.feed(bytes(100_000))
        await asyncio.sleep(0.05)
        link.set(LinkConditions(bandwidth_bytes_per_s=1e5, latency_s=0.2))
        await asyncio.sleep(5)
        by_then = sum(len(data) for time, data in rig.out if time <= 0.15 + 1e-6)
        # In 50 ms at 1 MB/s 50 kB went out and keep their 100 ms; the rest takes 0.5 s, and 200 ms to arrive.
        assert by_then == pytest.approx(50_000, abs=5_000)
        assert rig.out[-1][0] == pytest.approx(0.05 + 0.5 + 0.2, abs=0.001)
        # What was planned at the old rate, pieces of 5 kB, comes one by one at the new one.
        later = [time for time, _ in rig.out if time > 0.15 + 1e-6]
        assert max(after - before for before, after in itertools.pairwise([0.25, *later])) <= 0.05 + 1e-6

    on_jumping_loop(test)


def test_little_is_booked_ahead_however_much_waits() -> None:
    async def test() -> None:
        link = channel(LinkConditions(bandwidth_bytes_per_s=1e5))
        rig = Recorder(link=link)
        rig.pipe.feed(bytes(60_000))
        for _ in range(20):
            assert link.clock.free_s - rig.loop.time() <= HORIZON_S + PIECE_S + 1e-9
            await asyncio.sleep(0.01)

    on_jumping_loop(test)


def test_cards_at_both_ends_slow_a_link_down() -> None:
    async def test() -> None:
        sending, receiving = NicClock(2e5), NicClock(1e5)
        links = [channel(LinkConditions(latency_s=0.01), sender=sending, receiver=receiving) for _ in range(2)]
        rigs = [Recorder(link=link) for link in links]
        for rig in rigs:
            rig.pipe.feed(bytes(20_000))
        await asyncio.sleep(2)
        assert [len(rig.data) for rig in rigs] == [20_000, 20_000]
        last = max(rig.out[-1][0] for rig in rigs)
        # 40 kB through a receiving card of 100 kB/s; the first piece comes to it after its own sending.
        assert 0.4 <= last <= 0.45
        for rig in rigs:
            passed = 0
            for time, data in rig.out:
                passed += len(data)
                assert passed <= 1e5 * time

    on_jumping_loop(test)


def test_a_link_that_is_taken_away_lets_its_bytes_go_in_order() -> None:
    async def test() -> None:
        link = channel(LinkConditions(latency_s=10.0, up=True))
        rig = Recorder(toxic("latency", "l", latency=20), link=link)
        rig.pipe.feed(b"first ")
        await asyncio.sleep(1)
        rig.pipe.feed(b"second")
        rig.pipe.set_link(None)
        assert rig.data == b"first "
        await asyncio.sleep(1)
        assert rig.data == b"first second"

    on_jumping_loop(test)
