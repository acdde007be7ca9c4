"""Small studies: a scenario of milliseconds, and executors that run points where they are."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

TINY: dict[str, Any] = {
    "schema_version": 1,
    "name": "tiny",
    "duration": "20 s",
    "warm_up": "2 s",
    "model": "llama-1-30b",
    "cluster": "small-6",
    "placement": {"planner": "petals"},
    "workload": {
        "kind": "open",
        "synthetic": {"requests_per_s": 1.0, "lengths": {"prompt_tokens": 100, "output_tokens": 10}},
    },
    "slo": {"ttft": "2 s"},
}
PRICES: dict[str, Any] = {"nodes": {"A100": 3, "L4": 1, "T4": {"on_demand": 0.5, "spot": 0.2}}}


def tiny_study(**keys: Any) -> dict[str, Any]:
    """A study of the tiny scenario; keys are those of a study's file."""
    return {"schema_version": 1, "kind": "study", "name": "tiny-study", "scenario": TINY, **keys}


class HereExecutor:
    """Runs everything at once, in the caller's process."""

    def __init__(self) -> None:
        self.calls = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls += 1
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
