"""/datasets: what can be evaluated on, and how it gets here."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from control.access.dataset_owners import DatasetOwners
from control.access.principal import Principal
from control.access.view import View, Viewer
from control.models.eval_history import EvalHistory
from control.routes.job_references import JobReferences
from control.services import Given
from stepserve.jobs.eval_ports import DatasetStore
from stepserve.paths import Layout

_CLIENT_CLOSED = 499


def router_of(store: DatasetStore) -> APIRouter:
    router = APIRouter()

    @router.get("/datasets")
    async def listing(layout: Given[Layout], owners: Given[DatasetOwners], view: Viewer) -> dict[str, Any]:
        shown = await store.listing(layout.datasets)
        names = [str(facts["name"]) for facts in shown]
        seen = set(await asyncio.to_thread(owners.visible, view, names))
        return {"datasets": [facts for facts in shown if facts["name"] in seen]}

    @router.get("/datasets/{name:path}/versions")
    async def versions(
        name: str, owners: Given[DatasetOwners], layout: Given[Layout], eval_history: Given[EvalHistory], view: Viewer
    ) -> dict[str, Any]:
        """The contents that it has had, newest first, with the evals that were asked on each."""
        await asyncio.to_thread(owners.check, view, "name", name)
        facts, found = await store.versions(name, layout.datasets)
        evals = await eval_history.by_dataset(str(facts["name"]), view)
        for version in found:
            version["evals"] = evals.pop(version["digest"], [])
        unseen = [{"digest": digest, "evals": jobs} for digest, jobs in evals.items()]
        return {"name": facts["name"], "digest": facts["digest"], "versions": found, "not_seen": unseen}

    @router.get("/datasets/{name:path}")
    async def facts(name: str, owners: Given[DatasetOwners], layout: Given[Layout], view: Viewer) -> dict[str, Any]:
        await asyncio.to_thread(owners.check, view, "name", name)
        return await store.facts(name, layout.datasets)

    @router.put("/datasets/{name:path}", response_model=None)
    async def put(
        name: str,
        http: Request,
        owners: Given[DatasetOwners],
        layout: Given[Layout],
        view: Viewer,
        response: Response,
        replace: bool = False,
        digest: Annotated[str | None, Query(pattern="^(sha256:)?[0-9a-fA-F]{64}$")] = None,
    ) -> dict[str, Any] | Response:
        try:
            facts, new = await put_owned(
                store, owners, layout, view, Principal.of(http.scope["headers"]), name, http.stream(), replace, digest
            )
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED)  # nobody reads it
        response.status_code = 201 if new else 200
        return facts | {"existing": not new}

    @router.delete("/datasets/{name:path}")
    async def remove(
        name: str,
        owners: Given[DatasetOwners],
        layout: Given[Layout],
        references: Given[JobReferences],
        view: Viewer,
    ) -> dict[str, Any]:
        """The file. What evals on it found, and the contents that it had, stay known."""
        await asyncio.to_thread(owners.check, view, "name", name)
        path = await store.find(name, layout.datasets)
        found = str(path.relative_to(layout.datasets.resolve()))
        await asyncio.to_thread(owners.check_may_remove, view, found)
        await references.check_unread(path)
        await store.remove(path)
        await asyncio.to_thread(owners.forget_if_gone, found)
        return {"status": "deleted", "name": found}

    return router


async def put_owned(
    store: DatasetStore,
    owners: DatasetOwners,
    layout: Layout,
    view: View,
    principal: Principal,
    name: str,
    body: AsyncIterator[bytes],
    replace: bool = False,
    digest: str | None = None,
) -> tuple[dict[str, Any], bool]:
    """Puts a data set here, which is its key's from now on. True: it is new. Raises what the store and `owners` do."""
    owner = None if principal.sees_all else principal.actor
    await asyncio.to_thread(owners.take, view, owner, name, replace=replace)
    try:
        facts, new = await store.put(name, body, layout.datasets, replace=replace, digest=digest)
        await asyncio.to_thread(owners.keep, owner, name, new=new)
    finally:
        await asyncio.to_thread(owners.forget_if_gone, name)
    return facts, new
