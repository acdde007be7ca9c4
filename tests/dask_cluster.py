"""A real Dask scheduler and workers, on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_S = 90


def started(words: list[str], log: Path, path: Path = ROOT) -> subprocess.Popen[bytes]:
    """A process of Dask that finds our packages in ``path``."""
    environment = {**os.environ, "PYTHONPATH": str(path), "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", *words], stdout=stream, stderr=stream, env=environment, cwd=log.parent
        )


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


class DaskCluster:
    """A scheduler and its workers, all of which can be killed."""

    def __init__(self, folder: Path, packages: tuple[Path, ...] = (ROOT, ROOT)) -> None:
        self.folder = folder
        file = folder / "scheduler.json"
        common = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
        self.scheduler = started(["distributed.cli.dask_scheduler", *common, "--port", "0"], folder / "scheduler.log")
        self.workers: list[subprocess.Popen[bytes]] = []
        until(file.exists, "the scheduler does not start")
        self.address = str(json.loads(file.read_text())["address"])
        for number, path in enumerate(packages):
            words = ["distributed.cli.dask_worker", *common, "--no-nanny", "--nthreads", "1"]
            words += ["--local-directory", str(folder / f"worker-{number}")]
            self.workers.append(started(words, folder / f"worker-{number}.log", path))

    def ready(self, count: int) -> None:
        """Wait for workers."""
        from distributed import Client

        with Client(self.address, timeout=START_S, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=START_S)

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@contextmanager
def dask(folder: Path, packages: tuple[Path, ...] = (ROOT, ROOT)) -> Iterator[DaskCluster]:
    folder.mkdir()
    cluster = DaskCluster(folder, packages)
    try:
        cluster.ready(len(packages))
        yield cluster
    finally:
        cluster.close()
