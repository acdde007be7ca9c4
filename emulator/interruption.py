"""Ctrl-C during a run: it ends between two events, so that the books balance."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from emulator.environment import VirtualEnvironment


@contextmanager
def interrupted_between_events(env: VirtualEnvironment) -> Iterator[None]:
    """Let Ctrl-C wait for the event under way; a second one does not wait.

    Whoever handled it before, an event loop for instance, handles it again after the block. Where it is ignored, it
    stays so, and a thread other than the main one cannot handle it.

    Args:
        env: Its :meth:`~emulator.environment.VirtualEnvironment.interrupt` is called.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before in (None, signal.SIG_IGN):
        yield
        return

    def on_signal(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        env.interrupt()

    signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
