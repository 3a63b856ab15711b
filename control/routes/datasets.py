"""/datasets: what can be evaluated on, and how it gets here."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from control.ports import DatasetShelf
from control.services import Wired

_CLIENT_CLOSED = 499


def router_of(shelf: DatasetShelf) -> APIRouter:
    router = APIRouter()

    @router.get("/datasets")
    async def listing(services: Wired) -> dict[str, Any]:
        return {"datasets": await shelf.listing(services.layout.datasets)}

    @router.get("/datasets/{name:path}")
    async def facts(name: str, services: Wired) -> dict[str, Any]:
        return await shelf.facts(name, services.layout.datasets)

    @router.put("/datasets/{name:path}", response_model=None)
    async def put(
        name: str,
        http: Request,
        services: Wired,
        response: Response,
        replace: bool = False,
        digest: Annotated[str | None, Query(pattern="^(sha256:)?[0-9a-fA-F]{64}$")] = None,
    ) -> dict[str, Any] | Response:
        body: AsyncIterator[bytes] = http.stream()
        try:
            facts, new = await shelf.put(name, body, services.layout.datasets, replace=replace, digest=digest)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED)  # nobody reads it
        response.status_code = 201 if new else 200
        return facts | {"existing": not new}

    return router
