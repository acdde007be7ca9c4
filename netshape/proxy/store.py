"""All proxies of a server, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from netshape.proxy.bodies import ProxyBody
from netshape.proxy.errors import ApiError, bad_body, proxy_exists, proxy_not_found
from netshape.proxy.links import SIDES, Card, Link, LinksChange, Side
from netshape.proxy.proxy import Limits, Proxy, Shared
from netshape.proxy.room import Room
from netshape.proxy.toxics.toxic import DIRECTIONS, Direction, Toxic, shown

LinkReader = Callable[[Any], Link]
"""Makes a link from what a request or a file says of it; raises ``ValueError`` with a message for the user."""


class ProxyStore:
    """The proxies, and what can be done to several of them. Changes happen one at a time.

    Args:
        seed: Of every random draw.
        limits: What the proxies may take up.
        room: Memory for bytes that are held back.
        cards: Network cards that links may share.
        read_link: Reads links in requests; without it, requests cannot set links.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        limits: Limits | None = None,
        room: Room | None = None,
        cards: Sequence[Card] = (),
        read_link: LinkReader | None = None,
    ) -> None:
        self._shared = Shared(seed=seed, limits=limits or Limits(), room=room or Room())
        self._cards = {card.name: card for card in cards}
        self._read_link = read_link
        self._proxies: dict[str, Proxy] = {}
        self._changing = asyncio.Lock()

    @property
    def proxies(self) -> list[Proxy]:
        """All proxies by name."""
        return [self._proxies[name] for name in sorted(self._proxies)]

    @property
    def idle(self) -> bool:
        """Whether no connection takes up any room."""
        return self._shared.connections == 0 and self._shared.room.pipes == 0

    def get(self, name: str) -> Proxy:
        """The proxy of a name.

        Raises:
            ApiError: There is none.
        """
        if name not in self._proxies:
            raise proxy_not_found()
        return self._proxies[name]

    async def create(self, body: ProxyBody) -> Proxy:
        """Make a proxy and, unless it says otherwise, let it listen.

        Raises:
            ApiError: The name is taken, an address is none, or it cannot be listened at.
        """
        async with self._changing:
            proxy = self._made(body)
            change = self._change(body)
            if proxy.name in self._proxies:
                raise proxy_exists()
            self._check_room(1)
            if body.enabled:
                await proxy.start()
            self._proxies[proxy.name] = proxy
            proxy.change_links(change)
            return proxy

    async def update(self, name: str, body: ProxyBody) -> Proxy:
        """Change a proxy's addresses, links, or whether it listens.

        Raises:
            ApiError: No such proxy, an address that is none, or one that cannot be listened at.
        """
        async with self._changing:
            proxy = self.get(name)
            change = self._change(body)
            await proxy.update(
                listen=proxy.listen if body.listen is None else body.listen,
                upstream=proxy.upstream if not body.upstream else body.upstream,
                enabled=proxy.enabled if body.enabled is None else body.enabled,
            )
            proxy.change_links(change)
            return proxy

    async def remove(self, name: str) -> None:
        """Stop a proxy and forget it.

        Raises:
            ApiError: There is none of the name.
        """
        async with self._changing:
            proxy = self.get(name)
            await proxy.close()
            del self._proxies[name]

    async def populate(self, bodies: Sequence[ProxyBody]) -> tuple[list[Proxy], ApiError | None]:
        """Make proxies; one that exists with the same addresses stays as it is, another one of the name is replaced.

        Returns:
            The proxies up to the first that could not be made, and why it could not.

        Raises:
            ApiError: A body that no proxy can be made of; nothing is changed then.
        """
        async with self._changing:
            fresh = [self._made(body) for body in bodies]
            changes = [self._change(body) for body in bodies]
            self._check_room(sum(proxy.name not in self._proxies for proxy in fresh))
            done: list[Proxy] = []
            for proxy, body, change in zip(fresh, bodies, changes, strict=True):
                try:
                    done.append(await self._put(proxy, start=body.enabled is not False))
                except ApiError as error:
                    return done, error
                done[-1].change_links(change)
            return done, None

    async def reset(self) -> None:
        """Let every proxy listen, without toxics.

        Raises:
            ApiError: One cannot listen.
        """
        async with self._changing:
            for proxy in self.proxies:
                await proxy.start()
                proxy.remove_all_toxics()

    async def add_toxic(self, name: str, toxic: Toxic) -> Toxic:
        """Put a toxic on a proxy; errors as of :meth:`Proxy.add_toxic`."""
        async with self._changing:
            self.get(name).add_toxic(toxic)
            return toxic

    async def update_toxic(self, name: str, toxic_name: str, change: Callable[[Toxic], Toxic]) -> Toxic:
        """Change a toxic.

        Raises:
            ApiError: No such proxy or toxic, or what ``change`` raises.
        """
        async with self._changing:
            proxy = self.get(name)
            toxic = change(proxy.toxic(toxic_name))
            proxy.update_toxic(toxic)
            return toxic

    async def remove_toxic(self, name: str, toxic_name: str) -> None:
        """Take a toxic away; errors as of :meth:`Proxy.remove_toxic`."""
        async with self._changing:
            self.get(name).remove_toxic(toxic_name)

    async def close(self) -> None:
        """Stop and forget all proxies."""
        async with self._changing:
            for proxy in self.proxies:
                await proxy.close()
            self._proxies.clear()

    async def _put(self, proxy: Proxy, *, start: bool) -> Proxy:
        existing = self._proxies.get(proxy.name)
        if existing is not None:
            if await existing.has_addresses(proxy.listen, proxy.upstream):
                return existing
            await existing.stop()
        if start:
            await proxy.start()
        if existing is not None:
            await existing.close()
        self._proxies[proxy.name] = proxy
        return proxy

    def _made(self, body: ProxyBody) -> Proxy:
        return Proxy(body.name or "", body.listen or "", body.upstream or "", self._shared)

    def _change(self, body: ProxyBody) -> LinksChange:
        links: dict[Direction, Link | None] = {}
        cards: dict[Side, Card | None] = {}
        for name, written in (body.links or {}).items():
            if name in SIDES:
                cards[name] = None if written is None else self._card(name, written)
            elif name in DIRECTIONS:
                links[name] = None if written is None else self._link(name, written)
        return LinksChange(links=links, cards=cards)

    def _card(self, side: Side, name: object) -> Card:
        if not isinstance(name, str) or name not in self._cards:
            known = ", ".join(self._cards) or "none"
            raise bad_body(f"links.{side}: there is no card {shown(name)} (there are: {known})")
        return self._cards[name]

    def _link(self, direction: Direction, written: object) -> Link:
        if isinstance(written, Link):
            return written
        if self._read_link is None:
            raise bad_body("this server reads no links")
        try:
            return self._read_link(written)
        except ValueError as error:
            raise bad_body(f"links.{direction}: {error}") from error

    def _check_room(self, more: int) -> None:
        most = self._shared.limits.max_proxies
        if len(self._proxies) + more > most:
            raise ApiError(400, f"{len(self._proxies)} proxies exist; at most {most} are allowed")
