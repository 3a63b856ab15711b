"""A fleet's member without engines: the fake gateway behind a token on a TCP port, which joins and sends heartbeats."""

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from stepserve import __version__
from stepserve.contract import ModelRef
from stepserve.fleet import MEMBER_PREFIX, MEMBER_STAGE_PATH, StageAnswer, StageRequest
from tests.eventually import eventually
from tests.integration.fake_gateway import FakeGateway
from tests.integration.serving import serving

HEARTBEAT_S = 0.05


class FakeMember(FakeGateway):
    """`joined` serves, joins and beats until it is left; a second time it is the same member started anew.

    Clear `beats` and it is silent; set `refuse_stage` and it cannot get the files. `port` 0: any that is free.
    """

    def __init__(self, name: str, port: int = 0) -> None:
        super().__init__(Path())
        self.name = name
        self.port = port
        self.http = httpx.AsyncClient(timeout=240)  # control, whichever runs now
        self.url = ""
        self.token = ""
        self.staged: list[ModelRef] = []
        self.refuse_stage: str | None = None
        self.promotion_scenario = asyncio.Event()
        self.may_stage = asyncio.Event()
        self.may_stage.set()
        self.beats = asyncio.Event()
        self.beats.set()
        self.told: dict[str, Any] = {}  # the last answer to a heartbeat

    @asynccontextmanager
    async def joined(self, control: httpx.AsyncClient, *, joins: bool = True) -> AsyncIterator[None]:
        self.boot += 1
        self.http = control
        self.token = secrets.token_urlsafe(32)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = FastAPI()
        app.mount(MEMBER_PREFIX, self._guarded())
        app.add_api_route("/livez", lambda: {"status": "alive"})
        async with serving(app, listener, at_once=True, lifespan="off", loop="asyncio") as self.server:
            beating = None
            if joins:
                (await self.join()).raise_for_status()
                beating = asyncio.create_task(self._beat_for_ever())
            try:
                yield
            finally:
                if beating is not None:
                    beating.cancel()
                    await asyncio.wait({beating})
        self.active = None

    async def join(self, **changes: Any) -> httpx.Response:
        body = {
            "id": self.name, "url": self.url, "token": self.token, "boot_id": str(self.boot),
            "stepserve_version": __version__, "now_s": time.time(), "zone": "z", "labels": {"tier": "fast"},
        }  # fmt: skip
        return await self.http.post("/fleet/join", json=body | changes)

    async def beat(self, **changes: Any) -> httpx.Response:
        active = self.active
        body = {
            "id": self.name, "token": self.token, "serving": active is not None,
            "model": active.id if active else None, "digest": self.pushed_digest or (active.digest if active else None),
            "version": self.pushed,
        }  # fmt: skip
        return await self.http.post("/fleet/heartbeat", json=body | changes)

    async def told_that(self, state: str) -> None:
        """Returns once control says so in its answers."""
        await eventually(lambda: asyncio.sleep(0, self.told), lambda told: told.get("state") == state)

    async def _beat_for_ever(self) -> None:
        while True:
            await self.beats.wait()
            try:
                answer = await self.beat()
            except (httpx.HTTPError, RuntimeError):  # RuntimeError: the client of a control that has ended
                pass
            else:
                if answer.status_code == 200:
                    self.told = answer.json()
            await asyncio.sleep(HEARTBEAT_S)

    def _guarded(self) -> FastAPI:
        app = self._app()

        @app.post(MEMBER_STAGE_PATH, response_model=None)
        async def stage(request: StageRequest) -> Response:
            self.promotion_scenario.set()
            await self.may_stage.wait()
            if self.refuse_stage is not None:
                return JSONResponse({"detail": self.refuse_stage, "code": "stage_failed"}, 507)
            self.staged.append(request.model)
            return JSONResponse(StageAnswer(model=request.model).model_dump())

        @app.middleware("http")
        async def check(request: Request, go_on: Any) -> Response:
            if request.headers.get("authorization") != f"Bearer {self.token}":
                return JSONResponse({"detail": "not the token of this run", "code": "invalid_token"}, 401)
            answer: Response = await go_on(request)
            return answer

        return app
