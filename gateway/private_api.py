"""What control may ask of the gateway: on a Unix socket that only this user can open, on a member of a fleet behind a
token. The types are the contract's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from gateway.access.job_charge import charged
from gateway.access.usage import UsageTotals
from gateway.errors import DigestMismatch, GatewayError
from gateway.fleet.files import MemberFiles
from gateway.http.asgi import ClientDisconnected, Receive, unless_disconnected, until_disconnected
from gateway.inference.internal import Inference
from gateway.pushing.taking import VersionTaker
from gateway.serving.canary.canary import Canary
from gateway.serving.canary.judging import Taken
from gateway.serving.pool import Pool
from gateway.serving.router import Router
from gateway.serving.self_check import SelfCheck
from gateway.sidecar.key_link import KeySync
from gateway.status.serving import serving_report
from gateway.status.usage import UsageBook
from gateway.traffic.judged import in_words
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
    AskRequest,
    AskResult,
    BatchRequest,
    BatchResult,
    Capabilities,
    CheckedEngine,
    CheckEngineRequest,
    KeepAliveRequest,
    Loaded,
    LoadRequest,
    ProveRequest,
    UnloadRequest,
)
from stepserve.fleet import (
    GATEWAY_KEEP_PATH,
    GATEWAY_TAKE_PATH,
    MEMBER_FILES_PATH,
    MEMBER_STAGE_PATH,
    KeptVersion,
    StageRequest,
)
from stepserve.request_id import Traced
from stepserve.serving_report import GATEWAY_SERVING_PATH

R = TypeVar("R", bound=BaseModel)


def create_private_app(
    pool: Pool,
    router: Router,
    self_check: SelfCheck,
    inference: Inference,
    usage: UsageBook,
    ask_engine: Callable[[], Capabilities],
    check_engine: Callable[[CheckEngineRequest], CheckedEngine],
    key_link: KeySync,
    key_usage: UsageTotals,
    canary: Canary,
    versions: VersionTaker,
    files: MemberFiles | None = None,
) -> Starlette:
    """`ask_engine` and `check_engine` may block for as long as it takes to import vLLM. `files`: of a fleet's member,
    which may have to fetch a model's, and sends them to other members.
    """

    async def state(_: Request) -> Response:
        return _json(pool.snapshot())

    async def used(_: Request) -> Response:
        return _json(usage.report(sum(slot.in_flight for slot in pool.snapshot().slots)))

    async def serving(_: Request) -> Response:
        return _json(serving_report(pool.snapshot(), usage.report(0)))

    async def capabilities(_: Request) -> Response:
        return _json(await asyncio.to_thread(ask_engine))

    async def check(request: Request) -> Response:
        async def run(asked: CheckEngineRequest) -> CheckedEngine:
            return await asyncio.to_thread(check_engine, asked)

        return await _answer(request, CheckEngineRequest, run)

    async def activate(request: Request) -> Response:
        return await _answer(request, ActivateRequest, pool.activate)

    async def take(request: Request) -> Response:
        return await _answer(request, KeptVersion, versions.take)

    async def keep(_: Request) -> Response:
        return await _answered(versions.keep())

    async def batch(request: Request) -> Response:
        async def run(asked: BatchRequest) -> BatchResult:
            slot = await router.enter(asked.model, lambda: until_disconnected(request.receive))
            if asked.digest is not None and slot.model.digest != asked.digest:
                raise DigestMismatch(asked.model, asked.digest, slot.model.digest, slot.version.number)
            with charged(key_usage, slot.model.id, len(asked.items)):
                outputs = await unless_disconnected(slot.batch(asked.items, asked.sampling), request.receive)
            return BatchResult(
                model=slot.model.id, digest=slot.model.digest, version=slot.version.number, outputs=outputs
            )

        return await _answer(request, BatchRequest, run)

    async def load(request: Request) -> Response:
        async def run(asked: LoadRequest) -> Loaded:
            await pool.load(asked)
            return Loaded(id=asked.model.id, loaded=True)

        return await _answer(request, LoadRequest, run)

    async def prove(request: Request) -> Response:
        return await _answer(request, ProveRequest, self_check.prove)

    async def unload(request: Request) -> Response:
        async def run(asked: UnloadRequest) -> Loaded:
            await pool.unload(asked.id, forced=asked.forced)
            return Loaded(id=asked.id, loaded=False)

        return await _answer(request, UnloadRequest, run)

    async def keep_alive(request: Request) -> Response:
        async def run(asked: KeepAliveRequest) -> Loaded:
            pool.register_keep_alive(asked.id, asked.keep_alive_s)
            return Loaded(id=asked.id, loaded=pool.loaded.beside(asked.id) is not None)

        return await _answer(request, KeepAliveRequest, run)

    async def keys(request: Request) -> Response:
        take = key_link.accept if request.url.path == GATEWAY_RECOVERED_KEYS_PATH else key_link.put
        try:
            take(KeySet.model_validate_json(await request.body()))
        except ValidationError as error:
            return JSONResponse({"detail": str(error), "code": "invalid"}, 422)
        return Response(status_code=204)

    async def ask(request: Request) -> Response:
        async def run(asked: AskRequest) -> AskResult:
            slot = await router.enter(asked.model, lambda: until_disconnected(request.receive))
            if slot.model.digest != asked.digest:
                raise DigestMismatch(asked.model, asked.digest, slot.model.digest, slot.version.number)
            with charged(key_usage, slot.model.id, len(asked.items)):
                result = await unless_disconnected(inference.ask(asked), request.receive)
            if slot.model.digest != asked.digest:  # kept inside while the weights became others, so partly of those
                raise DigestMismatch(asked.model, asked.digest, slot.model.digest, slot.version.number)
            return result

        return await _answer(request, AskRequest, run)

    async def trial(request: Request) -> Response:
        async def run(asked: CanaryOrder) -> CanaryReport:
            return canary.order(asked)

        return await _answer(request, CanaryOrder, run)

    async def judged(request: Request) -> Response:
        async def run(said: CanaryVerdicts) -> CanaryAnswers:
            taken = await _to_read(canary, request.path_params["canary_id"], said, request.receive)
            return await asyncio.to_thread(in_words, taken)

        return await _answer(request, CanaryVerdicts, run)

    async def end_trial(request: Request) -> Response:
        canary.end(request.path_params["canary_id"])
        return Response(status_code=204)

    return Starlette(
        routes=[
            *(_file_routes(files) if files is not None else []),
            Route(GATEWAY_CANARY_PATH, trial, methods=["POST"]),
            Route(GATEWAY_CANARY_ANSWERS_PATH, judged, methods=["POST"]),
            Route(GATEWAY_CANARY_PATH + "/{canary_id}", end_trial, methods=["DELETE"]),
            Route(GATEWAY_KEYS_PATH, keys, methods=["PUT"]),
            Route(GATEWAY_RECOVERED_KEYS_PATH, keys, methods=["PUT"]),
            Route(GATEWAY_STATE_PATH, state, methods=["GET"]),
            Route(GATEWAY_USAGE_PATH, used, methods=["GET"]),
            Route(GATEWAY_SERVING_PATH, serving, methods=["GET"]),
            Route(GATEWAY_CAPABILITIES_PATH, capabilities, methods=["GET"]),
            Route(GATEWAY_CHECK_ENGINE_PATH, check, methods=["POST"]),
            Route(GATEWAY_ACTIVATE_PATH, activate, methods=["POST"]),
            Route(GATEWAY_TAKE_PATH, take, methods=["POST"]),
            Route(GATEWAY_KEEP_PATH, keep, methods=["POST"]),
            Route(GATEWAY_BATCH_PATH, batch, methods=["POST"]),
            Route(GATEWAY_LOAD_PATH, load, methods=["POST"]),
            Route(GATEWAY_PROVE_PATH, prove, methods=["POST"]),
            Route(GATEWAY_UNLOAD_PATH, unload, methods=["POST"]),
            Route(GATEWAY_KEEP_ALIVE_PATH, keep_alive, methods=["POST"]),
            Route(GATEWAY_ASK_PATH, ask, methods=["POST"]),
        ],
        middleware=[Middleware(Traced)],
    )


async def _to_read(canary: Canary, canary_id: str, said: CanaryVerdicts, receive: Receive) -> list[Taken]:
    """What a judge is to read next, the first answer of which is waited for. Raises ClientDisconnected."""
    taken = canary.answers(canary_id, said)
    if taken or not said.wanted:
        return taken
    with suppress(TimeoutError):
        async with asyncio.timeout(CANARY_ANSWERS_WAIT_S):
            await unless_disconnected(canary.until_answers(canary_id), receive)
    return canary.answers(canary_id, said.model_copy(update={"verdicts": []}))


def _file_routes(files: MemberFiles) -> list[Route]:
    """Of a member alone."""

    async def stage(request: Request) -> Response:
        return await _answer(request, StageRequest, files.stage)

    async def send(request: Request) -> Response:
        path = files.path(request.path_params["digest"], request.path_params["name"])
        if path is None:
            return JSONResponse({"detail": "this member does not have that file", "code": "not_found"}, 404)
        return FileResponse(path, media_type="application/octet-stream")

    return [
        Route(MEMBER_STAGE_PATH, stage, methods=["POST"]),
        Route(MEMBER_FILES_PATH + "/{digest}/{name:path}", send, methods=["GET"]),
    ]


async def _answer(request: Request, kind: type[R], run: Callable[[R], Awaitable[BaseModel]]) -> Response:
    try:
        asked = kind.model_validate_json(await request.body())
    except ValidationError as error:
        return JSONResponse({"detail": str(error), "code": "invalid"}, 422)
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
    return await _answered(run(asked))


async def _answered(work: Awaitable[BaseModel]) -> Response:
    try:
        return _json(await work)
    except (ClientDisconnected, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it
    except GatewayError as error:
        return JSONResponse({"detail": str(error), "code": error.code}, error.status)


def _json(content: BaseModel) -> Response:
    return Response(content.model_dump_json(), media_type="application/json")
