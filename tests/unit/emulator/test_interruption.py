"""Ctrl-C between events."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emulator.environment import VirtualEnvironment
from emulator.interruption import interrupted_between_events


@pytest.fixture(autouse=True)
def handler_as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def foreign(_number: int, _frame: object) -> None:
    raise AssertionError("the foreign handler has no say within the block")


@pytest.mark.parametrize("before", [signal.default_int_handler, foreign, signal.SIG_DFL])
def test_the_event_under_way_ends_and_the_handler_before_is_back(before: Callable[..., Any]) -> None:
    signal.signal(signal.SIGINT, before)
    env = VirtualEnvironment()
    done: list[str] = []

    def under_way(_event: object) -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("under way")

    env.call_at(1.0, under_way)
    env.call_at(1.0, lambda _event: done.append("next"))
    with pytest.raises(KeyboardInterrupt), interrupted_between_events(env):
        env.run_to(2.0)
    assert done == ["under way"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_one_does_not_wait() -> None:
    signal.signal(signal.SIGINT, foreign)
    env = VirtualEnvironment()
    done: list[str] = []

    def stuck(_event: object) -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("once")
        signal.raise_signal(signal.SIGINT)
        done.append("twice")

    env.call_at(1.0, stuck)
    with pytest.raises(KeyboardInterrupt), interrupted_between_events(env):
        env.run_to(2.0)
    assert done == ["once"]
    assert signal.getsignal(signal.SIGINT) is foreign


def test_ignored_it_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    env = VirtualEnvironment()
    env.call_at(1.0, lambda _event: signal.raise_signal(signal.SIGINT))
    with interrupted_between_events(env):
        env.run_to(2.0)
    assert env.now == 2.0
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_leaves_it_alone() -> None:
    signal.signal(signal.SIGINT, foreign)
    seen: list[object] = []

    def elsewhere() -> None:
        with interrupted_between_events(VirtualEnvironment()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [foreign]
