"""System calls that Python 3.11's standard library lacks."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MNT_DETACH = 2
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
OWN_NAMESPACE = Path("/proc/self/ns/net")
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave shared namespaces for new ones; a process with threads moves only the calling thread.

    Raises:
        OSError: Not permitted, or not in this kernel.
    """
    _checked(_libc.unshare(flags), "unshare")


def set_network_namespace(descriptor: int) -> None:
    """Move the calling thread to the network namespace behind ``descriptor``.

    Raises:
        OSError: Not permitted, or no network namespace.
    """
    _checked(_libc.setns(descriptor, CLONE_NEWNET), "setns")


def bind(source: Path, target: Path) -> None:
    """Mount a file on a file.

    Raises:
        OSError: Not permitted.
    """
    _checked(_libc.mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND, None), f"mount {target}")


def keep_mounts() -> None:
    """Let no mount of this process's namespace be seen outside.

    Raises:
        OSError: Not permitted.
    """
    _checked(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount /")


def unmount(path: Path) -> None:
    """Detach whatever is mounted on ``path``.

    Raises:
        OSError: Nothing mounted there, or not permitted.
    """
    _checked(_libc.umount2(os.fsencode(path), MNT_DETACH), f"umount {path}")


@contextmanager
def inside(path: Path) -> Iterator[None]:
    """Run a block inside the network namespace at ``path``; for processes with a single thread only.

    What is opened inside (sockets, TUN devices) stays in that namespace for ever.
    """
    home = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            set_network_namespace(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            set_network_namespace(home)
    finally:
        os.close(home)
