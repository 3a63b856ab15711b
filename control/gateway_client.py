"""A gateway as control sees it: its private API, over a Unix socket here and over TCP on a member of the fleet.

The only module of control that asks gateways by httpx.
"""

import asyncio
import socket
import ssl
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from control.errors import (
    Conflict,
    GatewayUnavailable,
    Invalid,
    LoadFailed,
    ModelNotServed,
    NoRoom,
    NoSpace,
    ServiceError,
    WrongWeights,
)
from stepserve.access import GATEWAY_KEYS_PATH, GATEWAY_RECOVERED_KEYS_PATH, KeySet
from stepserve.canary import (
    CANARY_ANSWERS_WAIT_S,
    GATEWAY_CANARY_ANSWERS_PATH,
    GATEWAY_CANARY_PATH,
    CanaryAnswers,
    CanaryOrder,
    CanaryReport,
    CanaryVerdicts,
)
from stepserve.contract import (
    GATEWAY_ACTIVATE_PATH,
    GATEWAY_ASK_PATH,
    GATEWAY_BATCH_PATH,
    GATEWAY_CAPABILITIES_PATH,
    GATEWAY_CHECK_ENGINE_PATH,
    GATEWAY_KEEP_ALIVE_PATH,
    GATEWAY_LOAD_PATH,
    GATEWAY_PROVE_PATH,
    GATEWAY_STATE_PATH,
    GATEWAY_UNLOAD_PATH,
    GATEWAY_USAGE_PATH,
    ActivateRequest,
    ActivateResult,
    AskRequest,
    AskResult,
    BatchRequest,
    BatchResult,
    Capabilities,
    CheckedEngine,
    CheckEngineRequest,
    GatewayState,
    KeepAliveRequest,
    Loaded,
    LoadRequest,
    Proof,
    ProveRequest,
    UnloadRequest,
    UsageReport,
)
from stepserve.fleet import (
    GATEWAY_KEEP_PATH,
    GATEWAY_TAKE_PATH,
    MEMBER_PREFIX,
    MEMBER_STAGE_PATH,
    KeptVersion,
    StageAnswer,
    StageRequest,
)
from stepserve.request_id import forwarded
from stepserve.serving_report import GATEWAY_SERVING_PATH, ServingReport
from stepserve.unix_http import unix_transport

STATE_TIMEOUT_S = 5.0
BATCH_TIMEOUT_S = 900.0
CAPABILITIES_TIMEOUT_S = 60.0
SWITCH_LOOK_EVERY_S = 5.0
MEMBER_PATIENCE = 2  # of a member, which has to be given up within a lease or so
SWITCH_PATIENCE = 6  # so often in a row the gateway may not say its state while it switches, 5 s each
LOAD_TIMEOUT_S = 900.0

# A switch or a fetch takes minutes in which no byte comes, and whatever lies between forgets a silent connection.
_KEPT_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]
# Idle ones are dropped sooner than any server does, so that no switch is sent into a connection that is being closed.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=3.0)

Answer = TypeVar("Answer", bound=BaseModel)


@contextmanager
def translated() -> Iterator[None]:
    """Turns whatever httpx raises into GatewayUnavailable."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, httpx.StreamError) as error:
        reason = str(error) or type(error).__name__
        raise GatewayUnavailable(f"the gateway cannot be reached: {reason}") from error


class GatewayClient:
    """One pool of connections."""

    def __init__(
        self, client: httpx.AsyncClient, look_every_s: float = SWITCH_LOOK_EVERY_S, patience: int = SWITCH_PATIENCE
    ) -> None:
        self._look_every_s = look_every_s
        self._patience = patience
        self._client = client

    @classmethod
    def at_socket(
        cls, socket: Path, look_every_s: float = SWITCH_LOOK_EVERY_S, patience: int = SWITCH_PATIENCE
    ) -> Self:
        """The gateway of this machine."""
        client = httpx.AsyncClient(
            transport=unix_transport(socket), base_url="http://gateway", timeout=httpx.Timeout(STATE_TIMEOUT_S)
        )
        return cls(client, look_every_s, patience)

    @classmethod
    def of_member(cls, url: str, token: str, tls: ssl.SSLContext, look_every_s: float) -> Self:
        """A member of the fleet, at the URL that it advertises and with the token of its join."""
        client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=tls, limits=_LIMITS, socket_options=_KEPT_ALIVE),
            base_url=url + MEMBER_PREFIX,
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(STATE_TIMEOUT_S),
        )
        return cls(client, look_every_s, MEMBER_PATIENCE)

    async def state(self) -> GatewayState:
        """Raises GatewayUnavailable, also for an answer that does not end."""
        self._check_open()
        try:
            with translated():
                async with asyncio.timeout(STATE_TIMEOUT_S):
                    response = await self._client.get(GATEWAY_STATE_PATH)
        except TimeoutError:
            raise GatewayUnavailable(f"the gateway did not say its state within {STATE_TIMEOUT_S:g} s") from None
        return _answer(response, GatewayState)

    async def usage(self) -> UsageReport:
        """Raises GatewayUnavailable."""
        with translated():
            response = await self._client.get(GATEWAY_USAGE_PATH)
        return _answer(response, UsageReport)

    async def serving(self) -> ServingReport:
        """Raises GatewayUnavailable."""
        with translated():
            response = await self._client.get(GATEWAY_SERVING_PATH)
        return _answer(response, ServingReport)

    async def capabilities(self) -> Capabilities:
        """The first time, the gateway may have to load vLLM for it. Raises GatewayUnavailable."""
        with translated():
            response = await self._client.get(GATEWAY_CAPABILITIES_PATH, timeout=CAPABILITIES_TIMEOUT_S)
        return _answer(response, Capabilities)

    async def check_engine(self, request: CheckEngineRequest) -> CheckedEngine:
        """The first time, the gateway may have to load vLLM for it. Raises GatewayUnavailable."""
        return await self._post(GATEWAY_CHECK_ENGINE_PATH, request, CheckedEngine, CAPABILITIES_TIMEOUT_S)

    async def activate(self, request: ActivateRequest) -> ActivateResult:
        """Waits for the end of the switch, however long a model takes to load; a failed one is an answer, not an error.

        Raises GatewayUnavailable (also when the gateway does not say its state any more), Conflict when another switch
        runs, WrongWeights.
        """
        return await self._watched(self._post(GATEWAY_ACTIVATE_PATH, request, ActivateResult, None))

    async def take(self, kept: KeptVersion) -> ActivateResult:
        """Has pushed weights put into the active model. What is said and raised is as of `activate`."""
        return await self._watched(self._post(GATEWAY_TAKE_PATH, kept, ActivateResult, None))

    async def keep(self) -> KeptVersion:
        """Has the gateway of this machine write the weights to disk that were pushed to it. Raises as `activate`."""
        with translated():
            response = await self._client.post(GATEWAY_KEEP_PATH, timeout=httpx.Timeout(STATE_TIMEOUT_S, read=None))
        return _answer(response, KeptVersion)

    async def stage(self, request: StageRequest) -> StageAnswer:
        """Has a member get a model's files, however long that takes. Raises as `activate`, and NoSpace."""
        return await self._watched(self._post(MEMBER_STAGE_PATH, request, StageAnswer, None))

    async def _watched(self, asked: Coroutine[Any, Any, Answer]) -> Answer:
        """What takes minutes, while the gateway says its state. Raises GatewayUnavailable once it does not."""
        asking = asyncio.create_task(asked)
        silent = 0
        try:
            while not (await asyncio.wait((asking,), timeout=self._look_every_s))[0]:
                try:
                    await self.state()
                    silent = 0
                except GatewayUnavailable:
                    silent += 1
                    if silent >= self._patience and not asking.done():
                        raise
            return asking.result()
        finally:
            asking.cancel()

    async def load(self, request: LoadRequest) -> None:
        """Has a model loaded beside the active one, and waits for that.

        Raises NoRoom when nothing can leave for it, LoadFailed, GatewayUnavailable.
        """
        await self._post(GATEWAY_LOAD_PATH, request, Loaded, LOAD_TIMEOUT_S)

    async def prove(self, request: ProveRequest) -> Proof:
        """Of the active model as it serves; one that is not passed is an answer.

        Raises Conflict when it is being switched or another model is active, Invalid for a reference that does not fit,
        GatewayUnavailable, and ServiceError when the engine dies or does not answer.
        """
        return await self._post(GATEWAY_PROVE_PATH, request, Proof, LOAD_TIMEOUT_S)

    async def unload(self, model_id: str, *, forced: bool = False) -> None:
        """Has a model that is loaded beside the active one take no more requests.

        Raises GatewayUnavailable; Conflict for a canary's candidate, unless it is `forced`.
        """
        asked = UnloadRequest(id=model_id, forced=forced)
        await self._post(GATEWAY_UNLOAD_PATH, asked, Loaded, STATE_TIMEOUT_S)

    async def keep_alive(self, model_id: str, keep_alive_s: float | None) -> None:
        """Tells what the model is registered with now. Raises GatewayUnavailable."""
        asked = KeepAliveRequest(id=model_id, keep_alive_s=keep_alive_s)
        await self._post(GATEWAY_KEEP_ALIVE_PATH, asked, Loaded, STATE_TIMEOUT_S)

    async def generate(self, request: BatchRequest) -> BatchResult:
        """As BatchEngine.generate, without patience."""
        return await self._post(GATEWAY_BATCH_PATH, request, BatchResult, BATCH_TIMEOUT_S)

    async def tell_keys(self, keys: KeySet, *, recovered: bool = False) -> None:
        """`recovered`: it is to take them whatever it knew before. Raises GatewayUnavailable."""
        path = GATEWAY_RECOVERED_KEYS_PATH if recovered else GATEWAY_KEYS_PATH
        with translated():
            response = await self._client.put(path, content=keys.model_dump_json())
        if response.status_code != 204:
            raise GatewayUnavailable(f"the gateway did not take the keys: {response.status_code}")

    async def ask(self, request: AskRequest) -> AskResult:
        """As BatchEngine.ask, without patience."""
        return await self._post(GATEWAY_ASK_PATH, request, AskResult, BATCH_TIMEOUT_S)

    async def canary(self, order: CanaryOrder) -> CanaryReport:
        """Begins it, or asks after it, which keeps it going. Raises Conflict while another one runs,
        GatewayUnavailable.
        """
        return await self._post(GATEWAY_CANARY_PATH, order, CanaryReport, STATE_TIMEOUT_S)

    async def canary_answers(self, canary_id: str, said: CanaryVerdicts) -> CanaryAnswers:
        """Hands in what its judge has said; what that is to read next, which is waited for where some is wanted. Raises
        GatewayUnavailable.
        """
        path = GATEWAY_CANARY_ANSWERS_PATH.format(canary_id=canary_id)
        return await self._post(path, said, CanaryAnswers, CANARY_ANSWERS_WAIT_S + STATE_TIMEOUT_S)

    async def end_canary(self, canary_id: str) -> None:
        """Raises GatewayUnavailable."""
        with translated():
            response = await self._client.delete(f"{GATEWAY_CANARY_PATH}/{canary_id}")
        if response.status_code != 204:
            raise GatewayUnavailable(f"the gateway did not end the canary: {response.status_code}")

    async def close(self) -> None:
        await self._client.aclose()

    def _check_open(self) -> None:
        """Raises GatewayUnavailable where a member was replaced while somebody still dealt with it."""
        if self._client.is_closed:
            raise GatewayUnavailable("the gateway is not a member any more")

    async def _post(self, path: str, body: BaseModel, answer: type[Answer], read_timeout_s: float | None) -> Answer:
        self._check_open()
        with translated():
            response = await self._client.post(
                path,
                content=body.model_dump_json(),
                headers={"content-type": "application/json", **forwarded()},
                timeout=httpx.Timeout(STATE_TIMEOUT_S, read=read_timeout_s),
            )
        return _answer(response, answer)


def _answer(response: httpx.Response, answer: type[Answer]) -> Answer:
    if response.status_code == 200:
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise GatewayUnavailable("the gateway's answer makes no sense: are both of the same version?") from error
    detail, code = _refusal(response)
    match response.status_code, code:
        case 409, "switch_in_progress" | "push_in_progress" | "model_paused" | "canary_running":
            raise Conflict(detail)
        case 404, "model_not_found":
            raise ModelNotServed(detail)
        case 409, "digest_mismatch":
            raise WrongWeights(detail)
        case 503, "no_room":
            raise NoRoom(detail)
        case 503, "load_failed":
            raise LoadFailed(detail)
        case 404, "model_not_loaded":
            raise ModelNotServed(detail)
        case 507, _:
            raise NoSpace(detail)
        case 503, _:
            raise GatewayUnavailable(detail)
        case status, _ if 400 <= status < 500:
            raise Invalid(detail)
    raise ServiceError(f"the gateway failed with {response.status_code}: {detail}")


def _refusal(response: httpx.Response) -> tuple[str, str]:
    """`detail` and `code` of an error answer; one that is not JSON is quoted, shortened."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return response.text[:200] or f"HTTP {response.status_code}", ""
    return str(body.get("detail", body)), str(body.get("code", ""))
