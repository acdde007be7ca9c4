"""Toxiproxy's HTTP API, version 2: what existing clients of Toxiproxy talk to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from netshape.proxy.bodies import (
    parse_json,
    read_changed_toxic,
    read_new_proxy,
    read_new_toxic,
    read_proxy,
    read_proxy_list,
)
from netshape.proxy.errors import ApiError
from netshape.proxy.exposition import exposition
from netshape.proxy.store import ProxyStore

API_VERSION = "2.12.0"
"""Toxiproxy's version whose API this is; clients ask for it to know what they may use."""
MAX_BODY_BYTES = 1 << 20
BODY_TIMEOUT_S = 15.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(store: ProxyStore, *, body_timeout_s: float = BODY_TIMEOUT_S) -> web.Application:
    """The API over ``store``; a body must come within ``body_timeout_s``."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors, _no_browsers])
    api = Api(store, body_timeout_s)
    app.add_routes(
        [
            web.get("/version", api.version),
            web.get("/metrics", api.metrics),
            web.post("/reset", api.reset),
            web.post("/populate", api.populate),
            web.get("/proxies", api.list_proxies),
            web.post("/proxies", api.create_proxy),
            web.get("/proxies/{proxy:[^/]+}", api.show_proxy),
            web.post("/proxies/{proxy:[^/]+}", api.update_proxy),
            web.patch("/proxies/{proxy:[^/]+}", api.update_proxy),
            web.delete("/proxies/{proxy:[^/]+}", api.remove_proxy),
            web.get("/proxies/{proxy:[^/]+}/toxics", api.list_toxics),
            web.post("/proxies/{proxy:[^/]+}/toxics", api.create_toxic),
            web.get("/proxies/{proxy:[^/]+}/toxics/{toxic:[^/]+}", api.show_toxic),
            web.post("/proxies/{proxy:[^/]+}/toxics/{toxic:[^/]+}", api.update_toxic),
            web.patch("/proxies/{proxy:[^/]+}/toxics/{toxic:[^/]+}", api.update_toxic),
            web.delete("/proxies/{proxy:[^/]+}/toxics/{toxic:[^/]+}", api.remove_toxic),
        ]
    )
    return app


class Api:
    """The handlers.

    Args:
        store: The proxies.
        body_timeout_s: Time that a body may take to come.
    """

    def __init__(self, store: ProxyStore, body_timeout_s: float) -> None:
        self._store = store
        self._body_timeout_s = body_timeout_s

    async def version(self, request: web.Request) -> web.Response:
        """GET /version."""
        return _answer({"version": API_VERSION})

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics."""
        return web.Response(text=exposition(self._store.proxies), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def reset(self, request: web.Request) -> web.Response:
        """POST /reset."""
        await self._store.reset()
        return web.Response(status=204)

    async def populate(self, request: web.Request) -> web.Response:
        """POST /populate."""
        bodies = read_proxy_list(await self._body(request))
        proxies, error = await self._store.populate(bodies)
        shown = {"proxies": [proxy.shown() for proxy in proxies]}
        return _answer(shown, 201) if error is None else _answer({**error.body, **shown}, error.status)

    async def list_proxies(self, request: web.Request) -> web.Response:
        """GET /proxies."""
        return _answer({proxy.name: proxy.shown() for proxy in self._store.proxies})

    async def create_proxy(self, request: web.Request) -> web.Response:
        """POST /proxies."""
        proxy = await self._store.create(read_new_proxy(await self._body(request)))
        return _answer(proxy.shown(), 201)

    async def show_proxy(self, request: web.Request) -> web.Response:
        """GET /proxies/{proxy}."""
        return _answer(self._store.get(request.match_info["proxy"]).shown())

    async def update_proxy(self, request: web.Request) -> web.Response:
        """POST or PATCH /proxies/{proxy}."""
        name = request.match_info["proxy"]
        self._store.get(name)
        proxy = await self._store.update(name, read_proxy(await self._body(request)))
        return _answer(proxy.shown())

    async def remove_proxy(self, request: web.Request) -> web.Response:
        """DELETE /proxies/{proxy}."""
        await self._store.remove(request.match_info["proxy"])
        return web.Response(status=204)

    async def list_toxics(self, request: web.Request) -> web.Response:
        """GET /proxies/{proxy}/toxics."""
        return _answer([toxic.shown() for toxic in self._store.get(request.match_info["proxy"]).toxics])

    async def create_toxic(self, request: web.Request) -> web.Response:
        """POST /proxies/{proxy}/toxics."""
        name = request.match_info["proxy"]
        self._store.get(name)
        toxic = await self._store.add_toxic(name, read_new_toxic(await self._body(request)))
        return _answer(toxic.shown())

    async def show_toxic(self, request: web.Request) -> web.Response:
        """GET /proxies/{proxy}/toxics/{toxic}."""
        return _answer(self._store.get(request.match_info["proxy"]).toxic(request.match_info["toxic"]).shown())

    async def update_toxic(self, request: web.Request) -> web.Response:
        """POST or PATCH /proxies/{proxy}/toxics/{toxic}."""
        name, toxic_name = request.match_info["proxy"], request.match_info["toxic"]
        self._store.get(name).toxic(toxic_name)
        value = await self._body(request)
        toxic = await self._store.update_toxic(name, toxic_name, lambda toxic: read_changed_toxic(value, toxic))
        return _answer(toxic.shown())

    async def remove_toxic(self, request: web.Request) -> web.Response:
        """DELETE /proxies/{proxy}/toxics/{toxic}."""
        await self._store.remove_toxic(request.match_info["proxy"], request.match_info["toxic"])
        return web.Response(status=204)

    async def _body(self, request: web.Request) -> Any:
        try:
            async with asyncio.timeout(self._body_timeout_s):
                body = await request.read()
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {self._body_timeout_s:g} s") from None
        return parse_json(body)


def _answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), status=status, content_type="application/json")


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        refusal = error
    except web.HTTPRequestEntityTooLarge:
        refusal = ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    except web.HTTPException as error:
        refusal = ApiError(error.status, error.reason.lower())
    return _answer(refusal.body, refusal.status)


@web.middleware
async def _no_browsers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A web page must not be able to drive the proxy through its visitor's browser."""
    if request.headers.get("User-Agent", "").startswith("Mozilla/"):
        return web.Response(status=403, text="User agent not allowed\n")
    return await handler(request)
