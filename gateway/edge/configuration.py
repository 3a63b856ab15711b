"""What of the settings can change while the server runs: aliases, and what is read again on request or SIGHUP."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.errors import AliasConfigured, AliasNotFound, AliasTaken, InvalidRequest
from gateway.http.asgi import read_body
from gateway.request.body import RequestBody
from gateway.request.unreadable import unreadable
from gateway.serving.naming import Naming
from gateway.upstream.directory import Directory
from stepserve import hosts
from stepserve.alias_book import AliasBook, AliasRefused
from stepserve.readable import readable
from stepserve.setting_origins import load
from stepserve.setting_sources import SettingsRefused
from stepserve.settings import Alias, Settings
from stepserve.unreadable_json import is_utf_8

log = logging.getLogger(__name__)

LIVE = frozenset({"aliases", "unknown_model"})
"""The settings that hold at once; hosts.json's tiers do too. All others are read when a process starts."""

_LONGEST_BODY_BYTES = 64 * 1024


@dataclass(slots=True)
class Configuration:
    """`read` gives the settings as they are now; `models` are the ids of all known models. One change at a time."""

    settings: Settings
    aliases: AliasBook
    naming: Naming
    elsewhere: Directory
    models: Callable[[], Awaitable[Collection[str]]]
    read: Callable[[], Settings] = load
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def routes(self) -> list[Route]:
        """They raise GatewayError."""
        return [
            Route("/aliases", self.list),
            Route("/aliases/{name:path}", self.show),
            Route("/aliases/{name:path}", self.put, methods=["PUT"]),
            Route("/aliases/{name:path}", self.remove, methods=["DELETE"]),
            Route("/config/reload", self.reload, methods=["POST"]),
        ]

    async def list(self, _: Request) -> Response:
        return JSONResponse({"aliases": [self._shown(name) for name in self.aliases.by_name]})

    async def show(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.aliases.by_name:
            raise AliasNotFound(name, self.aliases.by_name)
        return JSONResponse(self._shown(name))

    async def put(self, request: Request) -> Response:
        name = request.path_params["name"]
        body = RequestBody(await read_body(request.receive, _LONGEST_BODY_BYTES))
        if body.raw and not (body.is_object and is_utf_8(body.raw)):
            raise unreadable(body.raw)
        try:
            alias = Alias.model_validate_json(body.raw or b"{}")
        except ValidationError as error:
            raise InvalidRequest(readable(error.errors(include_url=False))) from error
        is_new = await self.keep(name, alias)
        return JSONResponse(self._shown(name), 201 if is_new else 200)

    async def remove(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self.forget(name)
        return JSONResponse({"status": "deleted", "name": name})

    async def reload(self, _: Request) -> Response:
        return JSONResponse({"status": "reloaded", **await self.read_again()})

    async def keep(self, name: str, alias: Alias) -> bool:
        """Whether it is new. Raises AliasConfigured, InvalidRequest; AliasTaken for a new one with a model's id."""
        async with self._changing:
            if name not in self.aliases.by_name and name in await self.models():
                raise AliasTaken(name)
            with _told():
                return await asyncio.to_thread(self.aliases.put, name, alias)

    async def forget(self, name: str) -> None:
        """Raises AliasNotFound, AliasConfigured."""
        async with self._changing:
            with _told():
                try:
                    await asyncio.to_thread(self.aliases.remove, name)
                except KeyError:
                    raise AliasNotFound(name, self.aliases.by_name) from None

    async def read_again(self) -> dict[str, Any]:
        """`changed`: the settings that hold from now on; `needs_restart`: those that wait for one; `tiers`: of other
        hosts, as they are now. Requests go on meanwhile. Raises InvalidRequest, and then nothing is changed.
        """
        async with self._changing:
            try:
                settings = await asyncio.to_thread(self.read)
                tiers = await asyncio.to_thread(hosts.read, settings.hosts_file, settings.layout.base)
                self.elsewhere.replace(tiers)
            except (SettingsRefused, hosts.HostsRefused) as error:
                raise InvalidRequest(str(error)) from error
            differing = list(_differing(self.settings.model_dump(), settings.model_dump()))
            self.aliases.configure(settings.aliases)
            self.naming.unknown = settings.unknown_model
            self.settings = self.settings.model_copy(update={name: getattr(settings, name) for name in LIVE})
        changed = [name for name in differing if name.partition(".")[0] in LIVE]
        waiting = [name for name in differing if name not in changed]
        log.info("read the settings again: %s hold now, %s after a restart", changed or "none", waiting or "none")
        return {"changed": changed, "needs_restart": waiting, "tiers": list(self.elsewhere.tiers)}

    async def hang_up(self) -> None:
        """On SIGHUP: what cannot be read is told in the log."""
        try:
            await self.read_again()
        except InvalidRequest as error:
            log.error("the settings stay as they were: %s", error)

    def _shown(self, name: str) -> dict[str, Any]:
        source = "settings" if self.aliases.is_configured(name) else "aliases"
        return {"name": name, **self.aliases.by_name[name].model_dump(exclude_none=True), "source": source}


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The names of values that are not the same, such as `engine.max_num_seqs`."""
    for name, value in after.items():
        was = before.get(name)
        if isinstance(value, Mapping) and isinstance(was, Mapping) and not above and name not in LIVE:
            yield from _differing(was, value, f"{name}.")
        elif value != was:
            yield above + name


@contextmanager
def _told() -> Iterator[None]:
    """The book's refusals as the gateway's."""
    try:
        yield
    except AliasRefused as error:
        if error.is_configured:
            raise AliasConfigured(str(error)) from error
        raise InvalidRequest(str(error)) from error
