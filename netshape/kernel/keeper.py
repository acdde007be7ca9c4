"""The process behind a lab: makes its namespaces, forwards its packets (backend tun), and takes everything down.

It ends, and cleans up, when the lab is closed, when the process that owns the lab ends in whatever way, and on
SIGTERM. Killed itself, it leaves namespaces behind that the owner's close, or the next start of any lab, removes. It
has a single thread, because it moves between namespaces.
"""

from __future__ import annotations

import gc
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from netshape.conditions import LinkConditions
from netshape.kernel.errors import KernelError
from netshape.kernel.namespaces import STATE_FOLDER, Namespace, remove_all, remove_stale
from netshape.kernel.orders import CLOSE, DONE, ERROR, MEASURE, READY, SET, Order, Started
from netshape.kernel.qdisc import netem_requests, tbf_requests
from netshape.kernel.router import HostFigures, PacketRouter, Route
from netshape.kernel.topology import Link
from netshape.kernel.wiring import Wiring, hosts_file
from netshape.timing import Timerfd, realtime_scheduling

_IDLE_S = 0.002
"""Deliveries further off than this are rung for early: polling then takes at most a tenth of a processor."""
_NEVER_S = 3e9
_MIN_AHEAD_S, _MAX_AHEAD_S, _AHEAD_STEP_S = 20e-6, 200e-6, 2e-6


class Alarm:
    """Wakes the loop for the next delivery.

    A processor that has been idle takes up to 0.2 ms to wake up. So the timer for a delivery that is still far off
    rings early, by what it was late of late, and the rest is spent polling. Dense traffic keeps the processor awake and
    goes without.
    """

    __slots__ = ("_ahead_s", "_due_s", "_polled_s", "_ring_s", "_timer")

    def __init__(self, timer: Timerfd) -> None:
        self._timer = timer
        self._due_s = self._ring_s = math.inf
        self._polled_s = math.nan
        self._ahead_s = _MAX_AHEAD_S / 2

    def timeout_s(self, due_s: float) -> float | None:
        """Time for ``epoll`` to wait, so that it returns at ``due_s``: ``None`` for until the timer, 0 for no time."""
        if due_s == self._polled_s:
            return 0
        now = time.monotonic()
        if due_s == self._due_s:
            if now < self._ring_s:
                return None
            # Settles where one ring in four is later.
            step = 3 * _AHEAD_STEP_S if now - self._ring_s > self._ahead_s else -_AHEAD_STEP_S
            self._ahead_s = min(max(self._ahead_s + step, _MIN_AHEAD_S), _MAX_AHEAD_S)
            self._polled_s = due_s
            return 0
        self._due_s = due_s
        self._ring_s = due_s - self._ahead_s if due_s - now > _IDLE_S else due_s
        self._timer.arm(_nanoseconds(self._ring_s))
        return None


def _nanoseconds(time_s: float) -> int:
    """For a timer; what is never due is due in a century."""
    return math.ceil(min(time_s, _NEVER_S) * 1e9)


class Keeper:
    """One lab's devices and the loop that serves them."""

    def __init__(self, order: Order, control: Connection) -> None:
        self._order = order
        self._control = control
        self._wiring = Wiring(order.topology, order.namespaces())
        self._links = {link.name: link for link in order.topology.links}
        self._routes: dict[str, Route] = {}
        self._router: PacketRouter | None = None

    def build(self, real_time: bool) -> Started:
        """Make everything.

        Args:
            real_time: For the answer.

        Raises:
            KernelError: The kernel refuses something; what was made stays for :meth:`take_down`.
        """
        warnings = []
        removed: list[Namespace] = []
        try:
            removed = remove_stale()
        except KernelError as error:
            warnings.append(f"stale namespaces: {error}")
        order = self._order
        STATE_FOLDER.mkdir(mode=0o755, exist_ok=True)
        any_host = next(iter(self._wiring.namespaces.values()))
        any_host.hosts_path.write_text(hosts_file(order.topology), encoding="ascii")
        self._wiring.make_hosts()
        if order.backend == "tun":
            self._wiring.wire_tuns()
            self._router = self._make_router()
        else:
            self._wiring.wire_pairs(netem_requests if order.backend == "netem" else tbf_requests)
        return Started(
            removed=tuple(namespace.name for namespace in removed),
            real_time=real_time,
            congestion_control=self._wiring.congestion_control(),
            warnings=tuple(warnings),
        )

    def _make_router(self) -> PacketRouter:
        hosts = {host.name: host for host in self._order.topology.hosts}
        tables: dict[int, dict[bytes, Route]] = {tun: {} for tun in self._wiring.tuns.values()}
        for link in self._order.topology.links:
            tuns = self._wiring.tuns
            route = Route(link.source, link.target, tuns[link.target], link.effective, self._order.seed)
            self._routes[link.name] = route
            tables[tuns[link.source]][socket.inet_aton(hosts[link.target].address)] = route
        return PacketRouter(tables)

    def serve(self) -> None:
        """Forward packets and answer requests until the lab is closed or its owner has ended."""
        with ExitStack() as stack:
            epoll = stack.enter_context(select.epoll())
            timer = Timerfd()
            stack.callback(timer.close)
            try:
                owner = os.pidfd_open(self._order.owner.pid)
            except ProcessLookupError:
                return
            stack.callback(os.close, owner)
            if not self._order.owner.alive:
                return
            special = {self._control.fileno(), owner, timer.fd}
            for descriptor in (*special, *self._wiring.tuns.values()):
                epoll.register(descriptor, select.EPOLLIN)
            alarm = Alarm(timer)
            timeout_s = None
            router = self._router
            while True:
                ready = [descriptor for descriptor, _ in epoll.poll(timeout_s)]
                if owner in ready:
                    return
                if self._control.fileno() in ready and not self._answer():
                    return
                if router is None:
                    continue
                for descriptor in ready:
                    if descriptor not in special:
                        router.take(descriptor)
                router.deliver()
                timeout_s = alarm.timeout_s(router.next_s)

    def take_down(self) -> None:
        """Remove everything that was made, and kill what runs inside.

        Raises:
            KernelError: Something is left.
        """
        self._wiring.close()
        remove_all(self._wiring.namespaces.values())

    def _answer(self) -> bool:
        """Answer one request; whether to go on."""
        try:
            request, argument = self._control.recv()
        except (EOFError, ConnectionResetError):
            return False
        if request == CLOSE:
            return False
        answer: tuple[str, Any] = DONE, None
        try:
            if request == SET:
                self._set(*argument)
            elif request == MEASURE:
                answer = DONE, tuple(route.figures() for route in self._routes.values())
            else:
                answer = DONE, self._host_figures()
        except KernelError as error:
            answer = ERROR, str(error)
        with suppress(BrokenPipeError):
            # The owner is gone: the next poll says so.
            self._control.send(answer)
        return True

    def _set(self, name: str, conditions: LinkConditions) -> None:
        old = self._links[name]
        link = Link(source=old.source, target=old.target, conditions=conditions)
        if self._router is not None:
            self._router.change(self._routes[name], link.effective)
        else:
            requests = netem_requests(link) if self._order.backend == "netem" else tbf_requests(link)
            self._wiring.shape(link, requests)
        self._links[name] = link

    def _host_figures(self) -> tuple[HostFigures, ...]:
        router = self._router
        if router is None:
            return ()
        return tuple(
            HostFigures(
                host=host,
                unroutable_packets=router.unroutable[tun],
                missed_packets=self._wiring.missed_packets(host),
            )
            for host, tun in self._wiring.tuns.items()
        )


@contextmanager
def _scheduling(order: Order) -> Iterator[bool]:
    """Real-time scheduling where it is wanted and granted; whether it is."""
    if order.backend != "tun" or not order.real_time:
        yield False
        return
    with realtime_scheduling() as granted:
        yield granted.realtime


def _stop(_signal: int, _frame: object) -> None:
    sys.exit(0)


def main() -> None:
    """Serve one lab; the argument is the descriptor of the connection to its owner."""
    # Ctrl-C is for the owner: it closes the lab, or ends, and this process follows.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    control = Connection(int(sys.argv[1]))
    try:
        order = control.recv()
    except EOFError:
        return
    keeper = Keeper(order, control)
    signal.signal(signal.SIGTERM, _stop)
    try:
        with _scheduling(order) as real_time:
            control.send((READY, keeper.build(real_time)))
            # Nothing here makes cycles while packets flow, and a collection would hold them up.
            gc.freeze()
            gc.disable()
            keeper.serve()
    except KernelError as error:
        with suppress(BrokenPipeError):
            control.send((ERROR, str(error)))
    except BrokenPipeError:
        # The owner has ended while the lab was built.
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        keeper.take_down()


if __name__ == "__main__":
    main()
