"""What each toxic does to a stream, to the microsecond, and what live changes do to bytes under way."""

from __future__ import annotations

import asyncio

import pytest
from pipe_rig import Recorder, on_jumping_loop, toxic

from netshape.proxy.errors import ApiError
from netshape.proxy.stages import End
from netshape.proxy.toxics.slicer import SLICES_A_TURN


def test_latency_delays_bytes_and_the_end_and_keeps_their_distance() -> None:
    async def test() -> None:
        rig = Recorder(toxic("latency", latency=100))
        rig.pipe.feed(b"a")
        await asyncio.sleep(0.03)
        rig.pipe.feed(b"b")
        rig.pipe.feed_end(End.HALF)
        await asyncio.sleep(1)
        assert rig.out == [(pytest.approx(0.1), b"a"), (pytest.approx(0.13), b"b")]
        assert rig.ends == [(pytest.approx(0.13), End.HALF)]
        assert rig.pipe.held_bytes == 0

    on_jumping_loop(test)


def test_jitter_spreads_evenly_and_overtakes_nothing() -> None:
    async def test() -> None:
        rig = Recorder(toxic("latency", latency=100, jitter=50))
        words = [number.to_bytes(2, "big") for number in range(2000)]
        for word in words:
            rig.pipe.feed(word)
            await asyncio.sleep(0.2)
        delays = [time - 0.2 * index for index, (time, _) in enumerate(rig.out)]
        assert rig.data == b"".join(words)
        assert 0.050 <= min(delays) < 0.055
        assert 0.145 < max(delays) <= 0.1501
        assert sum(delays) / len(delays) == pytest.approx(0.1, abs=0.003)

    on_jumping_loop(test)


def test_a_changed_latency_holds_for_bytes_under_way_and_one_removed_lets_them_go() -> None:
    async def test() -> None:
        rig = Recorder(toxic("latency", "slow", latency=10_000))
        rig.pipe.feed(b"a")
        await asyncio.sleep(1)
        rig.pipe.feed(b"b")
        await asyncio.sleep(1)
        rig.pipe.update(toxic("latency", "slow", latency=1500))
        await asyncio.sleep(2)
        assert rig.out == [(pytest.approx(2.0), b"a"), (pytest.approx(2.5), b"b")]
        rig.pipe.feed(b"c")
        rig.pipe.feed_end(End.HALF)
        rig.pipe.remove("slow")
        assert rig.data == b"abc"
        assert [how for _, how in rig.ends] == [End.HALF]

    on_jumping_loop(test)


def test_bandwidth_is_never_exceeded_and_fully_used() -> None:
    async def test() -> None:
        rig = Recorder(toxic("bandwidth", rate=100))
        rig.pipe.feed(bytes(60_000))
        rig.pipe.feed(bytes(40_000))
        await asyncio.sleep(2)
        passed = 0
        for time, data in rig.out:
            passed += len(data)
            assert passed <= 100_000 * time + 1e-6
        assert (passed, rig.out[-1][0]) == (100_000, pytest.approx(1.0))
        # Held back while there is more than the rate takes soon.
        assert rig.held[-1][1] is False
        assert max(time for time, held in rig.held if held) > 0.9

    on_jumping_loop(test)


def test_a_changed_rate_holds_for_what_is_not_sent_and_0_stops_everything() -> None:
    async def test() -> None:
        rig = Recorder(toxic("bandwidth", "b", rate=10))
        rig.pipe.feed(bytes(10_000))
        await asyncio.sleep(0.5)
        rig.pipe.update(toxic("bandwidth", "b", rate=0))
        await asyncio.sleep(5)
        # What the link had begun to send when it stopped waits like the rest.
        assert len(rig.data) == pytest.approx(5_000, abs=60)
        rig.pipe.update(toxic("bandwidth", "b", rate=100))
        await asyncio.sleep(1)
        assert (len(rig.data), rig.out[-1][0]) == (10_000, pytest.approx(5.55, abs=0.001))

    on_jumping_loop(test)


def test_slow_close_delays_the_end_alone() -> None:
    async def test() -> None:
        rig = Recorder(toxic("slow_close", "s", delay=500))
        rig.pipe.feed(b"a")
        rig.pipe.feed_end(End.HALF)
        assert rig.data == b"a"
        await asyncio.sleep(0.3)
        rig.pipe.update(toxic("slow_close", "s", delay=800))
        await asyncio.sleep(1)
        assert rig.ends == [(pytest.approx(0.8), End.HALF)]
        other = Recorder(toxic("slow_close", "s", delay=500))
        other.pipe.feed_end(End.HALF)
        other.pipe.remove("s")
        assert [how for _, how in other.ends] == [End.HALF]
        # A peer that resets does not ask for leave.
        other = Recorder(toxic("slow_close", "s", delay=500))
        other.pipe.feed_end(End.RESET)
        assert [how for _, how in other.ends] == [End.RESET]

    on_jumping_loop(test)


def test_timeout_drops_all_and_closes_in_time_whatever_comes() -> None:
    async def test() -> None:
        rig = Recorder(toxic("timeout", "t", timeout=1000))
        for _ in range(20):
            rig.pipe.feed(b"x")
            await asyncio.sleep(0.1)
        assert rig.out == []
        assert rig.ends == [(pytest.approx(1.0), End.CLOSE)]
        assert rig.metrics.dropped_bytes == 20

    on_jumping_loop(test)


def test_a_timeout_that_is_removed_closes_for_bytes_are_missing() -> None:
    async def test() -> None:
        rig = Recorder(toxic("timeout", "t"))
        rig.pipe.feed(b"x")
        await asyncio.sleep(100)
        assert rig.ends == []
        rig.pipe.remove("t")
        assert [how for _, how in rig.ends] == [End.CLOSE]

    on_jumping_loop(test)


def test_reset_peer_counts_from_the_first_bytes() -> None:
    async def test() -> None:
        rig = Recorder(toxic("reset_peer", timeout=300))
        await asyncio.sleep(1)
        assert rig.ends == []
        rig.pipe.feed(b"x")
        await asyncio.sleep(0.2)
        rig.pipe.feed(b"y")
        await asyncio.sleep(1)
        assert (rig.out, rig.ends) == ([], [(pytest.approx(1.3), End.RESET)])

    on_jumping_loop(test)


def test_reset_peer_before_any_bytes_can_be_taken_back() -> None:
    async def test() -> None:
        rig = Recorder(toxic("reset_peer", "r"))
        rig.pipe.remove("r")
        rig.pipe.feed(b"x")
        assert (rig.data, rig.ends) == (b"x", [])

    on_jumping_loop(test)


def test_limit_data_counts_across_changes() -> None:
    async def test() -> None:
        rig = Recorder(toxic("limit_data", "l", bytes=10))
        rig.pipe.feed(b"12345")
        rig.pipe.update(toxic("limit_data", "l", bytes=7))
        rig.pipe.feed(b"67890")
        rig.pipe.feed(b"more")
        assert (rig.data, [how for _, how in rig.ends]) == (b"1234567", [End.CLOSE])
        assert rig.metrics.dropped_bytes == 7

    on_jumping_loop(test)


def test_bytes_within_a_limit_arrive_before_the_close_however_slowly() -> None:
    async def test() -> None:
        rig = Recorder(toxic("limit_data", bytes=3), toxic("latency", latency=700))
        rig.pipe.feed(b"12345")
        await asyncio.sleep(1)
        assert rig.out == [(pytest.approx(0.7), b"123")]
        assert rig.ends == [(pytest.approx(0.7), End.CLOSE)]

    on_jumping_loop(test)


def test_slices_have_their_sizes_and_pauses() -> None:
    async def test() -> None:
        rig = Recorder(toxic("slicer", average_size=100, size_variation=30, delay=10_000))
        rig.pipe.feed(bytes(5000))
        rig.pipe.feed_end(End.HALF)
        await asyncio.sleep(2)
        sizes = [len(data) for _, data in rig.out]
        assert sum(sizes) == 5000
        assert all(70 <= size <= 130 for size in sizes[:-1])
        assert len(set(sizes)) > 10
        assert [time for time, _ in rig.out] == pytest.approx([0.01 * index for index in range(len(sizes))])
        assert rig.ends == [(pytest.approx(0.01 * len(sizes)), End.HALF)]

    on_jumping_loop(test)


def test_slices_without_pauses_leave_the_loop_its_turns() -> None:
    async def test() -> None:
        rig = Recorder(toxic("slicer", average_size=1))
        rig.pipe.feed(bytes(10 * SLICES_A_TURN))
        assert len(rig.out) == SLICES_A_TURN
        assert rig.held[-1][1] is True
        await asyncio.sleep(0.1)
        assert len(rig.out) == 10 * SLICES_A_TURN

    on_jumping_loop(test)


def test_toxics_work_in_the_order_in_which_they_were_added() -> None:
    async def test() -> None:
        # First cut off at 5 bytes, then slowed to 1 kB/s: 5 ms. The other way round the sixth byte is waited for.
        rig = Recorder(toxic("limit_data", bytes=5), toxic("bandwidth", rate=1))
        rig.pipe.feed(b"123456")
        await asyncio.sleep(1)
        assert rig.ends == [(pytest.approx(0.005), End.CLOSE)]

    on_jumping_loop(test)


def test_a_toxicity_that_rises_takes_connections_in_and_one_that_falls_lets_them_go() -> None:
    async def test() -> None:
        rigs = [Recorder(toxic("timeout", "t", 0.3), name=f"pipe {number}", seed=7) for number in range(200)]

        def hit() -> list[int]:
            for rig in rigs:
                rig.pipe.feed(b"x")
            return [number for number, rig in enumerate(rigs) if not rig.out]

        first = hit()
        assert 30 <= len(first) <= 90
        for rig in rigs:
            rig.out.clear()
            rig.pipe.update(toxic("timeout", "t", 0.6))
        second = hit()
        assert first == [number for number in first if number in second]
        assert len(second) > len(first)
        again = [Recorder(toxic("timeout", "t", 0.3), name=f"pipe {number}", seed=7) for number in range(200)]
        for rig in again:
            rig.pipe.feed(b"x")
        assert [number for number, rig in enumerate(again) if not rig.out] == first

    on_jumping_loop(test)


def test_closing_forgets_what_is_held_and_gives_the_room_back() -> None:
    async def test() -> None:
        rig = Recorder(toxic("latency", latency=1000), toxic("slicer", average_size=10, delay=1000))
        rig.pipe.feed(bytes(1000))
        rig.pipe.feed_end(End.HALF)
        await asyncio.sleep(1.0005)
        sent = len(rig.data)
        rig.pipe.close()
        rig.pipe.close()
        await asyncio.sleep(5)
        assert len(rig.data) == sent
        assert rig.ends == []
        assert sent + rig.metrics.dropped_bytes == 1000
        assert (rig.pipe.held_bytes, rig.room.share_bytes) == (0, 1 << 20)

    on_jumping_loop(test)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("latency", {"latency": 86_400_001}),
        ("latency", {"latency": True}),
        ("latency", {"latency": 1.5}),
        ("latency", {"jitter": -1}),
        ("bandwidth", {"rate": 2**63}),
        ("slicer", {"average_size": 10, "size_variation": 10}),
        ("noop", {"anything": 1}),
    ],
)
def test_attributes_out_of_range_are_refused(kind: str, attributes: dict[str, int]) -> None:
    with pytest.raises(ApiError, match="bad request body") as caught:
        toxic(kind, **attributes)
    assert caught.value.status == 400


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert toxic("latency", latency=5.0).attributes.shown() == {"latency": 5, "jitter": 0}  # type: ignore[arg-type]
