"""/datasets: what can be evaluated on, and how it gets here."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from control.access.principal import Principal
from control.access.view import Viewer
from control.services import Wired
from stepserve.jobs.eval_ports import DatasetStore

_CLIENT_CLOSED = 499


def router_of(store: DatasetStore) -> APIRouter:
    router = APIRouter()

    @router.get("/datasets")
    async def listing(services: Wired, view: Viewer) -> dict[str, Any]:
        shown = await store.listing(services.layout.datasets)
        names = [str(facts["name"]) for facts in shown]
        seen = set(await asyncio.to_thread(services.dataset_owners.visible, view, names))
        return {"datasets": [facts for facts in shown if facts["name"] in seen]}

    @router.get("/datasets/{name:path}")
    async def facts(name: str, services: Wired, view: Viewer) -> dict[str, Any]:
        await asyncio.to_thread(services.dataset_owners.check, view, "name", name)
        return await store.facts(name, services.layout.datasets)

    @router.put("/datasets/{name:path}", response_model=None)
    async def put(
        name: str,
        http: Request,
        services: Wired,
        view: Viewer,
        response: Response,
        replace: bool = False,
        digest: Annotated[str | None, Query(pattern="^(sha256:)?[0-9a-fA-F]{64}$")] = None,
    ) -> dict[str, Any] | Response:
        body: AsyncIterator[bytes] = http.stream()
        owners, principal = services.dataset_owners, Principal.of(http.scope["headers"])
        owner = None if principal.sees_all else principal.actor
        await asyncio.to_thread(owners.take, view, owner, name, replace=replace)
        try:
            facts, new = await store.put(name, body, services.layout.datasets, replace=replace, digest=digest)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED)  # nobody reads it
        else:
            await asyncio.to_thread(owners.keep, owner, name, new=new)
        finally:
            await asyncio.to_thread(owners.forget_if_gone, name)
        response.status_code = 201 if new else 200
        return facts | {"existing": not new}

    return router
