"""What this machine's kernel can do, found out by trying it in a throwaway network namespace.

The trying is done by a child process that moves into a namespace of its own: whatever it makes there is gone when it
ends, and nothing outside is touched.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from netshape.kernel.errors import KernelError
from netshape.kernel.syscalls import CLONE_NEWNET, CLONE_NEWNS, OWN_NAMESPACE, bind, keep_mounts, unmount, unshare
from netshape.kernel.tun import open_tun
from netshape.timing import Timerfd, realtime_scheduling

PROBE_S = 30.0
"""Longest time that the child process may take."""
_TIMER_TRIES = 101
_TCP = Path("/proc/sys/net/ipv4")

_NETLINK_KINDS = ("veth", "bridge", "ifb")
_QDISCS: Mapping[str, Mapping[str, int]] = {
    "tbf": {"rate": 1_250_000, "burst": 5000, "limit": 100_000},
    "htb": {"default": 1},
    "netem": {"delay": 1000},
}
_MEANING = {
    "root": "CAP_NET_ADMIN and CAP_SYS_ADMIN",
    "pyroute2": "talks netlink to the kernel",
    "netns": "network namespaces",
    "veth": "pairs of virtual Ethernet cards",
    "bridge": "virtual switch",
    "tun": "network card that a process serves",
    "ifb": "shaping of incoming traffic",
    "tbf": "token bucket: rate",
    "htb": "hierarchical token bucket: rate, classes",
    "netem": "delay, jitter, loss, reorder, duplicate",
    "iptables loss": "random loss by packet filter",
    "SCHED_FIFO": "real-time scheduling: steadier timers",
    "timerfd": "timers finer than 1 ms",
    "congestion controls": "of TCP",
}
_NEEDS = {
    "netem": ("root", "pyroute2", "netns", "veth", "htb", "netem"),
    "tun": ("root", "pyroute2", "netns", "tun", "timerfd"),
    "tbf": ("root", "pyroute2", "netns", "veth", "tbf"),
}
BACKENDS: Mapping[str, str] = {
    "netem": "A: htb + netem, all in the kernel",
    "tun": "B: TUN router, packets through the link model",
    "tbf": "C: tbf, rates only",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One thing that a kernel may have.

    Attributes:
        name: Short name.
        meaning: What it is good for.
        available: Whether it works here; ``None`` where it could not be tried.
        detail: Figures, or why not.
    """

    name: str
    meaning: str
    available: bool | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendVerdict:
    """Whether a backend can be used.

    Attributes:
        name: ``netem``, ``tun`` or ``tbf``.
        title: For people.
        usable: Whether everything that it needs works.
        reason: What is missing; empty when usable.
    """

    name: str
    title: str
    usable: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """All that was found.

    Attributes:
        kernel: Release of the kernel.
        capabilities: In a fixed order.
        backends: In the order A, B, C.
    """

    kernel: str
    capabilities: tuple[Capability, ...]
    backends: tuple[BackendVerdict, ...]

    def capability(self, name: str) -> Capability:
        """The capability of that name."""
        return next(found for found in self.capabilities if found.name == name)

    def backend(self, name: str) -> BackendVerdict:
        """The verdict on the backend of that name."""
        return next(found for found in self.backends if found.name == name)


def probe() -> ProbeReport:
    """Find out what the kernel can do.

    Raises:
        KernelError: The probing process failed.
    """
    command = [sys.executable, "-m", "netshape.kernel.probe"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise KernelError(f"the probe did not end within {PROBE_S:g} s; try again, and report it") from None
    if done.returncode != 0:
        raise KernelError(f"the probe failed with exit code {done.returncode}: {done.stderr.strip()[-400:]}")
    found = {name: (available, detail) for name, available, detail in json.loads(done.stdout)}
    return report(os.uname().release, found)


def allowed_congestion_controls() -> list[str]:
    """Congestion controls that a namespace may have as its default; to be asked in the machine's own namespace."""
    return (_TCP / "tcp_allowed_congestion_control").read_text(encoding="ascii").split()


def report(kernel: str, found: Mapping[str, tuple[bool | None, str]]) -> ProbeReport:
    """What ``found`` (capability -> available, detail) means for the backends."""
    capabilities = tuple(
        Capability(name=name, meaning=meaning, available=found[name][0], detail=found[name][1])
        for name, meaning in _MEANING.items()
    )
    backends = []
    for name, needs in _NEEDS.items():
        # The first thing missing is the reason: what comes after it often just could not be tried.
        missing = next((f"{need}: {found[need][1]}" for need in needs if not found[need][0]), "")
        backends.append(BackendVerdict(name=name, title=BACKENDS[name], usable=not missing, reason=missing))
    return ProbeReport(kernel=kernel, capabilities=capabilities, backends=tuple(backends))


Tried = tuple[bool | None, str]


def _try_all() -> dict[str, Tried]:
    """Try everything; the calling process ends up in a namespace of its own."""
    root = os.geteuid() == 0
    found: dict[str, Tried] = {"root": (root, "" if root else "not root; run with sudo")}
    has_pyroute2 = importlib.util.find_spec("pyroute2") is not None
    found["pyroute2"] = (has_pyroute2, "" if has_pyroute2 else "not installed; pip install 'helix-emulator[kernel]'")
    found["congestion controls"] = _congestion_controls()
    found["timerfd"] = _timers()
    found["SCHED_FIFO"] = _real_time()
    found["netns"] = _attempt(_namespace)
    inside = found["netns"][0]
    missing: Tried = (None, "not tried: no namespace to try it in")
    found["tun"] = _tun() if inside else missing
    found["iptables loss"] = _iptables() if inside else missing
    if inside and has_pyroute2:
        found |= _netlink()
    else:
        untried = missing if not inside else (None, "not tried: pyroute2 is not installed")
        found |= dict.fromkeys((*_NETLINK_KINDS, *_QDISCS), untried)
    return found


def _attempt(action: Callable[[], object]) -> Tried:
    try:
        action()
    except OSError as error:
        return False, _reason(error)
    return True, ""


def _reason(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return "not permitted; run as root"
    return os.strerror(error.errno) if error.errno else str(error)


def _namespace() -> None:
    """Move into a namespace, and see whether it could be given a name, which containers may forbid."""
    unshare(CLONE_NEWNET)
    unshare(CLONE_NEWNS)
    keep_mounts()
    with tempfile.NamedTemporaryFile() as file:
        bind(OWN_NAMESPACE, Path(file.name))
        unmount(Path(file.name))


def _tun() -> Tried:
    try:
        os.close(open_tun(Path("/proc/self/ns/net"), "tun0"))
    except KernelError as error:
        return False, str(error)
    return True, "with TCP segmentation offload"


def _netlink() -> dict[str, Tried]:
    """Devices and queueing disciplines."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    found: dict[str, Tried] = {}
    with IPRoute() as netlink:

        def attempt(request: Callable[..., object], *arguments: object, **options: object) -> Tried:
            try:
                request(*arguments, **options)
            except NetlinkError as error:
                absent = error.code in (errno.ENOENT, errno.EOPNOTSUPP)
                return False, "not in this kernel" if absent else f"{os.strerror(error.code)}"
            return True, ""

        for kind in _NETLINK_KINDS:
            more = {"peer": "probe-peer"} if kind == "veth" else {}
            found[kind] = attempt(netlink.link, "add", ifname=kind, kind=kind, **more)
        cards = netlink.link_lookup(ifname="veth")
        for kind, options in _QDISCS.items():
            if not cards:
                found[kind] = (None, "not tried: no veth to try it on")
                continue
            found[kind] = attempt(netlink.tc, "add", kind, cards[0], 0x10000, **options)
            if found[kind][0]:
                netlink.tc("del", index=cards[0], handle=0x10000, parent=0xFFFFFFFF)
    return found


def _iptables() -> Tried:
    program = shutil.which("iptables")
    if program is None:
        return None, "not tried: no program iptables (no backend needs it)"
    rule = ["-A", "OUTPUT", "-m", "statistic", "--mode", "random", "--probability", "0.5", "-j", "DROP"]
    done = subprocess.run([program, *rule], capture_output=True, text=True, timeout=10, check=False)
    lines = done.stderr.strip().splitlines()
    return done.returncode == 0, "" if done.returncode == 0 else (lines[0] if lines else "failed")


def _congestion_controls() -> Tried:
    try:
        default = (_TCP / "tcp_congestion_control").read_text(encoding="ascii").strip()
        available = (_TCP / "tcp_available_congestion_control").read_text(encoding="ascii").split()
        allowed = allowed_congestion_controls()
    except OSError as error:
        return None, _reason(error)
    return True, f"{', '.join(available)}; default {default}; as a namespace's default {' or '.join(allowed)}"


def _real_time() -> Tried:
    with realtime_scheduling(1, awake=False) as granted:
        return granted.realtime, granted.reason


def _timers() -> Tried:
    """Whether there are timerfds, and how late they are."""
    try:
        timer = Timerfd()
    except OSError as error:
        return False, str(error)
    late_s = []
    for _ in range(_TIMER_TRIES):
        due = time.monotonic_ns() + 1_000_000
        timer.arm(due)
        select.select([timer.fd], [], [])
        late_s.append((time.monotonic_ns() - due) / 1e9)
    timer.close()
    return True, f"{statistics.median(late_s) * 1e6:.0f} us late (p50 of {_TIMER_TRIES})"


if __name__ == "__main__":
    json.dump([(name, *tried) for name, tried in _try_all().items()], sys.stdout)
