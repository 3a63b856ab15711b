"""Being a member: joining a control plane, saying regularly what is served here, and hearing what is committed."""

import asyncio
import logging
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from gateway.errors import JoinRefused
from stepserve import __version__
from stepserve.address import is_everywhere
from stepserve.contract import GatewayState
from stepserve.devices import devices_here
from stepserve.fleet import (
    FLEET_HEARTBEAT_PATH,
    FLEET_JOIN_PATH,
    MAX_ID_CHARS,
    HeartbeatAnswer,
    HeartbeatRequest,
    JoinAnswer,
    JoinRequest,
    fleet_devices,
)
from stepserve.installed_vllm import installed_vllm
from stepserve.settings import Settings
from stepserve.unix_http import unix_transport

log = logging.getLogger(__name__)

A = TypeVar("A", bound=BaseModel)

_TIMEOUT_S = 10.0
_JOIN_TIMEOUT_S = 30.0  # control calls back meanwhile
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_READY_FOR_REQUESTS = frozenset({"ready", "switching"})


def control_client(settings: Settings) -> httpx.AsyncClient:
    """The way to the control plane of the fleet: its own socket on this machine, or its URL with the member's key."""
    fleet = settings.fleet
    assert fleet.control is not None, "a member has a control plane"
    if fleet.control_socket is not None:
        transport = unix_transport(fleet.control_socket)
        return httpx.AsyncClient(transport=transport, base_url="http://control", timeout=_TIMEOUT_S)
    key = fleet.api_key.get_secret_value() if fleet.api_key is not None else None
    return httpx.AsyncClient(
        base_url=fleet.control,
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=_TIMEOUT_S,
        limits=httpx.Limits(max_keepalive_connections=20, keepalive_expiry=3.0),  # shorter than any server keeps one
        verify=fleet.tls() if fleet.control.startswith("https") else False,
        trust_env=False,
    )


class Membership:
    """`token`: what control shows when it asks this gateway for something. `clock_s` is monotonic."""

    def __init__(
        self,
        settings: Settings,
        control: httpx.AsyncClient,
        snapshot: Callable[[], GatewayState],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.token = secrets.token_urlsafe(32)
        self.url = settings.fleet.control or ""
        self._settings = settings
        self._control = control
        self._snapshot = snapshot
        self._clock_s = clock_s
        self.id = settings.fleet.id or _default_id(settings.port)
        self._joined: JoinAnswer | None = None
        self._told: HeartbeatAnswer | None = None
        self._heard_s = 0.0  # when the last heartbeat was sent that control has answered
        self._trouble = "it has not joined yet"

    @property
    def hears_control(self) -> bool:
        """Whether control has answered within the lease, so that it counts this member as alive."""
        return self._joined is not None and self._clock_s() - self._heard_s < self._joined.lease_s

    def why_not_ready(self) -> str | None:
        """Why a balancer should send nothing here; None: it serves what is committed, as far as it is told. Anybody may
        read it, so it names no address.
        """
        if not self.hears_control or self._told is None:
            return "the control plane does not hear this member: the log says why"
        told = self._told
        if told.state in _READY_FOR_REQUESTS:
            return None
        return f"{told.state}: {told.reason}" if told.reason else told.state

    async def run(self, reachable: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled; then says goodbye. `reachable` returns once the public port is listened to.

        Raises JoinRefused when control says no to the first join: asking again would not help.
        """
        try:
            await reachable()
            await self._join_until_joined(first=True)
            while True:
                joined = self._joined
                assert joined is not None, "joined above"
                if await self._beat():
                    await asyncio.sleep(joined.heartbeat_s)
                else:
                    await asyncio.sleep(_FIRST_PAUSE_S)  # control may take the join and refuse the heartbeats
                    await self._join_until_joined(first=False)
        except asyncio.CancelledError:
            await self._leave()
            raise

    async def _join_until_joined(self, *, first: bool) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                sent_s = self._clock_s()
                self._joined = await self._ask(FLEET_JOIN_PATH, await self._request(), JoinAnswer, _JOIN_TIMEOUT_S)
                self._heard_s, self._told = sent_s, None  # what control makes of it now it says to the next heartbeat
            except _Refused as error:
                if first and error.is_final:
                    raise JoinRefused(f"{self.url} does not take this gateway as a member: {error}") from error
                self._note(f"{self.url} does not take this gateway as a member: {error}")
            except _Unreached as error:
                self._note(f"{self.url} cannot be reached: {error}")
            else:
                log.info("joined the fleet of %s as %s", self.url, self.id)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _beat(self) -> bool:
        """False: this gateway is not a member any more, and has to join again."""
        sent_s = self._clock_s()
        try:
            self._told = await self._ask(FLEET_HEARTBEAT_PATH, self._heartbeat(), HeartbeatAnswer, _TIMEOUT_S)
        except _Refused as error:
            self._note(f"not a member any more: {error}")
            if error.is_final:
                self._told = None
            return not error.is_final
        except _Unreached as error:
            self._note(f"{self.url} cannot be reached: {error}")
            return True
        self._heard_s, self._trouble = sent_s, ""
        return True

    async def _leave(self) -> None:
        if self._joined is None:
            return
        try:
            goodbye = self._heartbeat().model_copy(update={"leaving": True})
            await asyncio.shield(self._ask(FLEET_HEARTBEAT_PATH, goodbye, HeartbeatAnswer, 1.0))
        except (_Refused, _Unreached, asyncio.CancelledError) as error:
            log.info("control could not be told of the end: %s", error)

    def _heartbeat(self) -> HeartbeatRequest:
        state = self._snapshot()
        slot = next((each for each in state.slots if each.active), None)
        return HeartbeatRequest(
            id=self.id,
            token=self.token,
            model=slot.model.id if slot else None,
            digest=slot.model.digest if slot else None,
            version=slot.version.number if slot else 0,
            in_flight=sum(each.in_flight for each in state.slots),
            serving=slot is not None and slot.phase == "ready" and slot.health != "failed",
        )

    async def _request(self) -> JoinRequest:
        fleet = self._settings.fleet
        return JoinRequest(
            id=self.id,
            url=fleet.advertise or await asyncio.to_thread(_own_url, self._settings),
            token=self.token,
            boot_id=self._snapshot().boot_id,
            zone=fleet.zone,
            labels=fleet.labels,
            devices=fleet_devices(await asyncio.to_thread(devices_here)),
            stepserve_version=__version__,
            vllm_version=installed_vllm(),
            now_s=time.time(),
        )

    async def _ask(self, path: str, body: BaseModel, answer: type[A], timeout_s: float) -> A:
        """Raises _Refused, _Unreached."""
        headers = {"content-type": "application/json"}
        try:
            response = await self._control.post(
                path, content=body.model_dump_json(), headers=headers, timeout=timeout_s
            )
        except httpx.HTTPError as error:
            raise _Unreached(str(error) or type(error).__name__) from error
        if response.status_code != 200:
            raise _Refused(response.status_code, _detail(response))
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise _Unreached("the answer is not a control plane's: is the URL right?") from error

    def _note(self, trouble: str) -> None:
        """Once, however long it lasts."""
        if trouble != self._trouble:
            log.warning("%s", trouble)
            self._trouble = trouble


class _Refused(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.is_final = 400 <= status < 500 and status not in {408, 429}


class _Unreached(Exception):
    pass


def _detail(response: httpx.Response) -> str:
    try:
        body = response.json()
        return str(body["detail"] if "detail" in body else body["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code} from a server that is not a Stepserve control plane"


def _default_id(port: int) -> str:
    """By the rule of MemberId. Of a long name the end is kept, by which machines of one kind differ."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])
    name = name[-(MAX_ID_CHARS - len(f"-{port}")) :].lstrip("_-")
    return f"{name or 'member'}-{port}"


def _own_url(settings: Settings) -> str:
    """Where this gateway listens; where that is every address, the one that leads to control. Blocks."""
    host = settings.host
    if is_everywhere(host):
        parts = urlsplit(settings.fleet.control or "")
        there = (parts.hostname or "127.0.0.1", parts.port or 443)
        try:
            family, kind, _, _, address = socket.getaddrinfo(*there, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as probe:
                probe.connect(address)  # of a datagram socket: nothing is sent
                host = str(probe.getsockname()[0])
        except OSError:
            host = socket.gethostname()
    scheme = "https" if settings.tls.on else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
