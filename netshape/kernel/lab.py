"""A network for unmodified programs: hosts that are network namespaces, links shaped by one of three backends.

Example::

    topology = full_mesh(["a", "b"], LinkConditions(bandwidth_bytes_per_s=12.5e6, latency_s=0.02))
    with KernelLab(topology) as lab:
        server = lab.start("a", ["python3", "-m", "http.server"])
        lab.run("b", ["curl", "-s", "http://a:8000/"], check=True)
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from netshape.conditions import LinkConditions
from netshape.kernel.errors import KernelError
from netshape.kernel.namespaces import Namespace, remove_all, this_process
from netshape.kernel.orders import DONE, MEASURE, MEASURE_HOSTS, READY, SET, Order
from netshape.kernel.router import HostFigures, LinkFigures
from netshape.kernel.topology import Backend, Link, Topology

START_S, START_S_PER_LINK = 60.0, 0.5
"""Longest time that building a lab may take; a link takes 5 ms with backend tun, 50 ms with the others."""
ANSWER_S = 10.0
CLOSE_S = 15.0

_serials = itertools.count(1)


class KernelLab:
    """Hosts and links in the kernel, for as long as the ``with`` block lasts.

    Everything that it makes is gone afterwards, together with the programs that still run in its hosts; also when the
    process is killed. Needs root, Linux and pyroute2.

    Attributes:
        topology: Hosts and links, with the conditions that hold.
        namespaces: Host -> its network namespace, which ``ip netns`` shows, too.
        removed: Stale namespaces of earlier labs that the start removed.
        real_time: Whether packets are forwarded with real-time scheduling.
        congestion_control: Default of TCP in the hosts; empty before the start.
        warnings: What could not be done, but does no harm.
    """

    def __init__(self, topology: Topology, *, backend: Backend = "tun", seed: int = 0, real_time: bool = True) -> None:
        """A lab; ``with`` starts it.

        Args:
            topology: Hosts and links.
            backend: ``tun`` forwards packets through the link model, ``netem`` leaves all to the kernel,
                ``tbf`` has rates only.
            seed: Of all draws of backend tun.
            real_time: Whether to ask for real-time scheduling of packets (backend tun).
        """
        self.topology = topology
        self.namespaces: Mapping[str, Namespace] = {}
        self.removed: tuple[str, ...] = ()
        self.real_time = real_time
        self.congestion_control = ""
        self.warnings: tuple[str, ...] = ()
        self._backend: Backend = backend
        self._seed = seed
        self._links = {link.name: link for link in topology.links}
        self._programs: list[subprocess.Popen[Any]] = []
        self._keeper: subprocess.Popen[bytes] | None = None
        self._control: Connection | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> KernelLab:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Build the lab.

        Raises:
            KernelError: Not root, no pyroute2, or the kernel lacks or refuses something; nothing is left behind.
        """
        if self._keeper is not None:
            raise KernelError("the lab is open already; close it first")
        check_can_build()

        order = Order(
            topology=self.topology,
            backend=self._backend,
            seed=self._seed,
            owner=this_process(),
            serial=next(_serials),
            real_time=self.real_time,
        )
        self.namespaces = order.namespaces()
        self._control, theirs = Pipe()
        try:
            self._keeper = start_module("netshape.kernel.keeper", [str(theirs.fileno())], pass_fds=[theirs.fileno()])
            theirs.close()
            self._control.send(order)
            kind, started = self._receive(START_S + START_S_PER_LINK * len(self._links))
            if kind != READY:
                raise KernelError(started)
        except BaseException:
            theirs.close()
            self.close()
            raise
        self.removed, self.real_time, self.warnings = started.removed, started.real_time, started.warnings
        self.congestion_control = started.congestion_control

    def close(self) -> None:
        """Take the lab down, with all programs in it; doing it again does nothing.

        Raises:
            KernelError: Something is left.
        """
        keeper, self._keeper = self._keeper, None
        if self._control is not None:
            # Its end is the sign to take everything down.
            self._control.close()
            self._control = None
        if keeper is not None:
            try:
                keeper.wait(CLOSE_S)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
        # The keeper has done it already unless it was killed.
        remove_all(self.namespaces.values())
        self.namespaces = {}
        for program in self._programs:
            # One that had not come as far as its namespace was not seen there.
            program.kill()
            program.wait()
        self._programs.clear()

    def start(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program in a host; it is killed when the lab closes.

        Args:
            host: Where.
            argv: Program and arguments.
            **options: For :class:`subprocess.Popen`.

        Raises:
            KernelError: No such host, or the lab is not open.
        """
        program = subprocess.Popen(self.command(host, argv), **options)
        self._programs = [each for each in self._programs if each.poll() is None]
        self._programs.append(program)
        return program

    def run(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a program in a host to its end.

        Args:
            host: Where.
            argv: Program and arguments.
            **options: For :func:`subprocess.run`: ``capture_output``, ``text``, ``timeout``, ``check`` and so on.

        Raises:
            KernelError: No such host, or the lab is not open.
        """
        return subprocess.run(self.command(host, argv), **options)

    def command(self, host: str, argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` in ``host``, for whoever starts processes on their own."""
        if host not in self.namespaces:
            known = ", ".join(self.namespaces) or "none, the lab is not open"
            raise KernelError(f"host {host!r}: there is no such host; known are {known}")
        return enter_command(self.namespaces[host], argv)

    def set(self, source: str, target: str, conditions: LinkConditions) -> None:
        """Change a link's conditions at once.

        With backend tun, what is already on its way keeps its time, and what waits takes the new rate and latency; the
        other backends drop what waits.

        Raises:
            KernelError: No such link, a change of the MTU, or conditions that the backend cannot have.
        """
        link = Link(source=source, target=target, conditions=conditions)
        old = self._links.get(link.name)
        if old is None:
            raise KernelError(f"link {link.name}: there is no such link; known are {', '.join(self._links) or 'none'}")
        if old.mtu_bytes != link.mtu_bytes:
            raise KernelError(
                f"link {link.name}: mtu_bytes stays {old.mtu_bytes} while the lab is open; make a new lab"
            )
        self._ask(SET, (link.name, conditions))
        self._links[link.name] = link

    def conditions(self, source: str, target: str) -> LinkConditions:
        """The conditions that hold on a link."""
        return self._links[f"{source}->{target}"].conditions

    def figures(self) -> tuple[LinkFigures, ...]:
        """What each link has carried so far, in the topology's order; backend tun only, empty for the others."""
        figures: tuple[LinkFigures, ...] = self._ask(MEASURE, None)
        return figures

    def host_figures(self) -> tuple[HostFigures, ...]:
        """What each host has sent that no link carried, in the topology's order; backend tun only."""
        figures: tuple[HostFigures, ...] = self._ask(MEASURE_HOSTS, None)
        return figures

    def check(self) -> None:
        """See whether the lab still works.

        Raises:
            KernelError: The process behind it has ended.
        """
        if self._keeper is None or self._keeper.poll() is not None:
            raise KernelError("the lab's process has ended; close the lab and make a new one")

    def _ask(self, request: str, argument: object) -> Any:
        with self._lock:
            if self._control is None:
                raise KernelError("the lab is not open; use it inside its `with` block")
            with suppress(BrokenPipeError):
                # If the keeper has ended, the missing answer says so.
                self._control.send((request, argument))
            kind, value = self._receive(ANSWER_S)
        if kind != DONE:
            raise KernelError(value)
        return value

    def _receive(self, timeout_s: float) -> tuple[str, Any]:
        control = self._control
        assert control is not None
        try:
            if not control.poll(timeout_s):
                raise KernelError(
                    f"the lab's process gave no answer within {timeout_s:g} s; close the lab and try again"
                )
            answer: tuple[str, Any] = control.recv()
        except (EOFError, ConnectionResetError):
            raise KernelError("the lab's process has ended; close the lab and make a new one") from None
        return answer


def check_can_build() -> None:
    """Tell what is missing before anything is tried.

    Raises:
        KernelError: Not Linux, not root, or no pyroute2.
    """
    if sys.platform != "linux":
        raise KernelError(f"network namespaces: this is {sys.platform}, only Linux has them; use the proxy")
    if importlib.util.find_spec("pyroute2") is None:
        raise KernelError("pyroute2 is not installed; run pip install 'helix-emulator[kernel]'")
    if os.geteuid() != 0:
        raise KernelError("network namespaces: not permitted; run as root (sudo)")


def enter_command(namespace: Namespace, argv: Sequence[str]) -> list[str]:
    """The command that runs ``argv`` in ``namespace``.

    Raises:
        KernelError: Nothing to run.
    """
    if not argv:
        raise KernelError("there is no program to run; name one")
    script = Path(__file__).with_name("enter.py")
    # -S -I: the standard library is all that it needs, and it starts in half the time.
    return [sys.executable, "-S", "-I", str(script), str(namespace.path), str(namespace.hosts_path), *argv]


def start_module(module: str, arguments: Sequence[str], *, pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
    """Run a module of this package as a process of its own, out of reach of the terminal's Ctrl-C."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
