"""The API server and the proxies behind it."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.http import HttpProcessingError

from netshape.proxy.addresses import LOOPBACK, shown_address
from netshape.proxy.api import BODY_TIMEOUT_S, application
from netshape.proxy.store import ProxyStore

DEFAULT_PORT = 8474
KEEPALIVE_S = 60.0
SHUTDOWN_S = 1.0

log = logging.getLogger(__name__)


class _BadRequests(logging.Filter):
    """Keeps out reports of requests that are no HTTP: their senders are told, and anybody can send them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


log.addFilter(_BadRequests())


class ProxyServer:
    """Listens for API requests while it is entered as a context; leaving it closes every proxy and connection.

    Args:
        store: The proxies.
        host: Where to listen.
        port: Likewise; 0 for any.
        body_timeout_s: Time that a request's body may take to come.

    Attributes:
        address: ``host:port`` once it listens.

    Raises:
        OSError: On entering: the address cannot be listened at.
    """

    def __init__(
        self,
        store: ProxyStore,
        *,
        host: str = LOOPBACK,
        port: int = DEFAULT_PORT,
        body_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        self.store = store
        self.address = ""
        self._host = host
        self._port = port
        # Compressed bodies stay as they are: a small one could unfold to any size.
        self._runner = web.AppRunner(
            application(store, body_timeout_s=body_timeout_s),
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_S,
            logger=log,
            shutdown_timeout=SHUTDOWN_S,
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, self._host, self._port)
            await site.start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self.address = shown_address(self._runner.addresses[0])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self.store.close()
