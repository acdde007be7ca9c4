"""Named network namespaces of this tool: what they are called, whose they are, and how they go away.

A name holds its owner: ``helixemu-PID-START-SERIAL-HOST``, START being the owner's start time in clock ticks since
boot. A namespace whose owner no longer runs is stale, and only such ones, with exactly this form of name, are ever
removed on another's behalf. Everything else that a lab makes (devices, queueing disciplines, routes) lives inside its
namespaces and goes with them.
"""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from netshape.kernel.errors import KernelError
from netshape.kernel.syscalls import OWN_NAMESPACE, unmount

FOLDER = Path("/run/netns")
STATE_FOLDER = Path("/run/helixemu")
"""Holds each lab's hosts file, and marks those of ``helixemu net up``."""
PREFIX = "helixemu"
HOST_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
"""Names of hosts: as in DNS, so that they can stand in /etc/hosts, and short."""

_NAME = re.compile(rf"{PREFIX}-([1-9][0-9]{{0,9}})-([1-9][0-9]{{0,19}})-([0-9]{{1,9}})-({HOST_PATTERN.pattern})")
_KILL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Owner:
    """A process, told from any later one with the same number.

    Attributes:
        pid: Its process id.
        start_ticks: When it started, in clock ticks since boot.
    """

    pid: int
    start_ticks: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that has ended and was not yet waited for does not."""
        return start_ticks(self.pid) == self.start_ticks


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Namespace:
    """A network namespace of a lab.

    Attributes:
        owner: Process that made the lab.
        serial: Which of the owner's labs.
        host: Host that it stands for.
    """

    owner: Owner
    serial: int
    host: str

    @property
    def name(self) -> str:
        """Name for ``ip netns``."""
        return f"{self.lab}-{self.host}"

    @property
    def path(self) -> Path:
        """File that holds the namespace."""
        return FOLDER / self.name

    @property
    def lab(self) -> str:
        """Name of its lab."""
        return lab_name(self.owner, self.serial)

    @property
    def hosts_path(self) -> Path:
        """File with the names of the lab's hosts, for /etc/hosts."""
        return STATE_FOLDER / f"{self.lab}.hosts"

    @property
    def marker_path(self) -> Path:
        """File that is there while ``helixemu net up`` keeps the lab up, so that it may be told to end."""
        return STATE_FOLDER / f"{self.lab}.up"


def lab_name(owner: Owner, serial: int) -> str:
    """Name of an owner's lab."""
    return f"{PREFIX}-{owner.pid}-{owner.start_ticks}-{serial}"


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; ``None`` for one that has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in parentheses and may hold anything.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZXx" else int(fields[19])


def this_process() -> Owner:
    """The calling process."""
    started = start_ticks(os.getpid())
    if started is None:
        raise KernelError("/proc does not show this process; mount /proc")
    return Owner(pid=os.getpid(), start_ticks=started)


def parse_name(name: str) -> Namespace | None:
    """The namespace that ``name`` stands for; ``None`` for names of any other form."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    owner = Owner(pid=int(match[1]), start_ticks=int(match[2]))
    found = Namespace(owner=owner, serial=int(match[3]), host=match[4])
    return found if found.name == name else None


def existing() -> list[Namespace]:
    """Every namespace of this tool, of all owners, sorted."""
    try:
        names = os.listdir(FOLDER)
    except FileNotFoundError:
        return []
    return sorted(found for found in map(parse_name, names) if found is not None)


def remove_stale() -> list[Namespace]:
    """Remove the namespaces of owners that no longer run, with the processes left in them.

    Returns:
        What was removed.

    Raises:
        KernelError: One could not be removed.
    """
    stale = [namespace for namespace in existing() if not namespace.owner.alive]
    remove_all(stale)
    _remove_stale_files()
    return stale


def remove_all(namespaces: Iterable[Namespace]) -> None:
    """Kill the processes in ``namespaces``, then remove them; one that is gone already is no error.

    Raises:
        KernelError: One could not be removed; the others are.
    """
    namespaces = list(namespaces)
    inodes = {inode for namespace in namespaces if (inode := _inode(namespace.path)) is not None}
    # The machine's own network is never taken for a lab's, whatever is mounted under that name.
    inodes -= {_inode(OWN_NAMESPACE), _inode(Path("/proc/1/ns/net"))}
    failures = []
    if inodes:
        failures = [f"process {pid} does not end" for pid in _kill_inside(inodes)]
    for namespace in namespaces:
        try:
            _remove_file(namespace.path)
            for path in (namespace.hosts_path, namespace.marker_path):
                path.unlink(missing_ok=True)
        except OSError as error:
            failures.append(f"{namespace.path}: {error.strerror or error}")
    if failures:
        raise KernelError(f"{'; '.join(failures)}: not cleaned up; run `helixemu net clean` as root")


def processes_inside(inodes: set[int]) -> Iterator[int]:
    """Ids of processes whose network namespace is one of ``inodes``."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _inode(Path(f"/proc/{entry}/ns/net")) in inodes:
            yield int(entry)


def _inode(path: Path) -> int | None:
    """Number of the namespace behind ``path``; ``None`` where there is none to see."""
    try:
        return path.stat().st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _kill_inside(inodes: set[int]) -> list[int]:
    """Kill all processes in namespaces, also those that they start meanwhile; those that are left at the end."""
    deadline = time.monotonic() + _KILL_S
    while left := list(processes_inside(inodes)):
        if time.monotonic() > deadline:
            return left
        for pid in left:
            with suppress(ProcessLookupError):
                _kill(pid, inodes)
    return []


def _kill(pid: int, inodes: set[int]) -> None:
    """Kill a process and see it end; a later one with the same number is left alone."""
    descriptor = os.pidfd_open(pid)
    try:
        if _inode(Path(f"/proc/{pid}/ns/net")) in inodes:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], 1.0)
    finally:
        os.close(descriptor)


def _remove_stale_files() -> None:
    """Those of labs that had no namespace yet, or no more."""
    with suppress(FileNotFoundError):
        for entry in STATE_FOLDER.iterdir():
            lab = parse_name(f"{entry.stem}-x")
            if lab is not None and not lab.owner.alive:
                entry.unlink(missing_ok=True)


def _remove_file(path: Path) -> None:
    with suppress(FileNotFoundError):
        # Nothing is mounted there when its maker was killed half way; the file has to go all the same.
        if _is_mounted(path):
            unmount(path)
        path.unlink()


def _is_mounted(path: Path) -> bool:
    """Whether something is mounted on a file of its folder."""
    return path.lstat().st_dev != path.parent.lstat().st_dev
