"""Who runs points: processes of this machine, Dask's workers, or anything that submits and gives futures."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, Protocol

from scenarios.studies.code_version import code_version
from scenarios.studies.errors import StudyError, VersionMismatchError

CONNECT_S = 10.0
"""How long a Dask scheduler may take to answer."""


class Executor(Protocol):
    """What an engine needs of :class:`concurrent.futures.Executor`."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function somewhere."""
        ...


class Workers(Protocol):
    """Executors that can be had anew, and what is known of them."""

    @property
    def executor(self) -> Executor:
        """The present one."""

    @property
    def count(self) -> int:
        """How many points run at a time."""

    @property
    def remote(self) -> bool:
        """Whether workers may be on other machines, so that files must travel."""

    def renew(self) -> None:
        """After the executor broke: make another."""

    def check(self) -> None:
        """Raise :class:`StudyError` when the workers cannot be reached any more."""


class GivenWorkers:
    """Somebody's own executor.

    Args:
        executor: Any executor; it must be able to send what can be pickled.
        count: How many points are sent at a time.
    """

    remote = True

    def __init__(self, executor: Executor, count: int | None = None) -> None:
        self.executor = executor
        self.count = count or getattr(executor, "_max_workers", None) or os.cpu_count() or 1

    def renew(self) -> None:
        """It is not ours to make anew."""
        raise StudyError("the executor broke; make a new one and run the study with resume")

    def check(self) -> None:
        """Nothing is known of it but its futures."""


class LocalWorkers:
    """Processes of this machine, started afresh rather than forked.

    Args:
        count: Number of processes; by default one a core.
    """

    remote = False

    def __init__(self, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self.executor: ProcessPoolExecutor = self._made()

    def _made(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.count, mp_context=context, initializer=_begin_worker)

    def renew(self) -> None:
        """After one of the processes was killed, the pool is of no use."""
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.executor = self._made()

    def check(self) -> None:
        """Processes that are killed break their futures; there is nothing else to look after."""

    def close(self) -> None:
        """End the processes; points under way are given up."""
        processes = list((getattr(self.executor, "_processes", None) or {}).values())
        self.executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _begin_worker() -> None:
    """Ctrl-C is the study's business; and when the study is killed, its processes end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class DaskWorkers:
    """Workers of a Dask scheduler.

    Args:
        address: Of the scheduler, for instance ``tcp://host:8786``.

    Raises:
        StudyError: It cannot be reached, has no workers, or Dask is not installed.
        VersionMismatchError: A worker has other code.
    """

    remote = True

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise StudyError("--scheduler needs Dask; install helix-emulator[distributed]") from None
        self.address = address
        # A scheduler that is gone is told in one sentence; the tracebacks of its client help nobody.
        self._log = logging.getLogger("distributed.client")
        self._log_level = self._log.level
        self._log.setLevel(logging.CRITICAL)
        try:
            self._client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            self._log.setLevel(self._log_level)
            raise StudyError(
                f"no Dask scheduler answers at {address} ({type(error).__name__}); start one with `dask scheduler`, "
                "workers with `dask worker ADDRESS`, then run the same command with --resume"
            ) from error
        threads = self._client.nthreads()
        if not threads:
            self.close()
            raise StudyError(f"the scheduler at {address} has no workers; start some with `dask worker {address}`")
        self.count = sum(threads.values())
        for worker, version in self._client.run(code_version).items():
            if version != code_version():
                self.close()
                raise VersionMismatchError(
                    f"the Dask worker {worker} runs other code than the study; install the same version on all machines"
                )
        self.executor: Executor = self._client.get_executor(pure=False)

    def renew(self) -> None:
        """Dask replaces its own workers."""
        self.check()

    def check(self) -> None:
        """Whether the scheduler is still there."""
        if self._client.status != "running":
            raise StudyError(self.lost)

    @property
    def lost(self) -> str:
        """What to say when the scheduler is gone."""
        return (
            f"the Dask scheduler at {self.address} went away; finished points are kept: "
            "start it again, then run the same command with --resume"
        )

    def close(self) -> None:
        """Disconnect; the scheduler and its workers go on."""
        with contextlib.suppress(OSError, TimeoutError):
            self._client.close(timeout=5)
        self._log.setLevel(self._log_level)


@contextmanager
def workers_for(processes: int | None, scheduler: str | None) -> Iterator[LocalWorkers | DaskWorkers]:
    """Local processes, or the workers of a Dask scheduler, for a while.

    Raises:
        StudyError: The scheduler cannot be used.
    """
    workers = LocalWorkers(processes) if scheduler is None else DaskWorkers(scheduler)
    try:
        yield workers
    finally:
        workers.close()
