"""The command ``helixemu proxy``."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from netshape.proxy.errors import ApiError
from netshape.proxy.proxy import Limits
from netshape.proxy.server import DEFAULT_PORT, ProxyServer
from netshape.proxy.store import ProxyStore
from netshape.timing import run
from scenarios.errors import Problem, ScenarioError
from scenarios.proxy_files import ProxyEntry, ProxyFile, read_link, read_proxy_file

MAX_PORT = 65_535
SPARE_DESCRIPTORS = 1200
"""For the proxies' and the API's own sockets."""


def proxy(
    host: Annotated[str, typer.Option(help="Where the API listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Likewise; 0 for any.", min=0, max=MAX_PORT)] = DEFAULT_PORT,
    config: Annotated[
        Path | None,
        typer.Option(help="Proxies to start with: Toxiproxy's JSON list, or YAML with toxics and links."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Root of every random draw.", min=0)] = 0,
    max_connections: Annotated[
        int, typer.Option(help="Clients at once, of all proxies together; one more is turned away.", min=1)
    ] = Limits().max_connections,
    connect_timeout: Annotated[
        float, typer.Option(help="Seconds that connecting to an upstream may take.", min=0.001)
    ] = Limits().connect_timeout_s,
) -> None:
    """Put TCP connections behind shaped links, driven through Toxiproxy's HTTP API.

    Runs until Ctrl-C or SIGTERM, which close every connection; the exit code is 0 then.
    """
    file = ProxyFile() if config is None else read_proxy_file(config)
    limits = Limits(max_connections=max_connections, connect_timeout_s=connect_timeout)
    _raise_descriptor_limit(2 * max_connections + SPARE_DESCRIPTORS)
    run(_serve(file, host=host, port=port, seed=seed, limits=limits))


async def _serve(file: ProxyFile, *, host: str, port: int, seed: int, limits: Limits) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, loop, stop)
    store = ProxyStore(seed=seed, limits=limits, cards=file.cards, read_link=read_link)
    try:
        async with ProxyServer(store, host=host, port=port) as server:
            await _populate(store, file.entries)
            count = len(store.proxies)
            print(
                f"Toxiproxy API at http://{server.address}, {count} {'proxy' if count == 1 else 'proxies'}", flush=True
            )
            for each in store.proxies:
                state = f"listens at {each.listen}" if each.enabled else "is disabled"
                print(f"  {each.name} {state} for {each.upstream}", flush=True)
            await stop.wait()
    except OSError as error:
        # asyncio words the message itself and leaves only the number of the system's own.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        rule, remedy = f"cannot listen: {reason}", "choose another --port, or 0 for any free one"
        raise ScenarioError(Problem("--port", None, "", f"{host}:{port}", rule, remedy)) from error


async def _populate(store: ProxyStore, entries: Sequence[ProxyEntry]) -> None:
    for entry in entries:
        try:
            proxy = await store.create(entry.body)
            for toxic in entry.toxics:
                await store.add_toxic(proxy.name, toxic)
        except ApiError as error:
            remedy = "change the address, or set enabled: false"
            raise ScenarioError(
                Problem("--config", None, f"proxy {entry.body.name}", None, error.message, remedy)
            ) from error


def _raise_descriptor_limit(wanted: int) -> None:
    """Allow this process the descriptors that it may need, as far as the system lets it; say when it does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed < wanted:
        print(f"warning: {allowed} open files allowed, {wanted} may be needed; see ulimit -Hn", file=sys.stderr)


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stop in good order; a second signal kills."""
    stop.set()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
