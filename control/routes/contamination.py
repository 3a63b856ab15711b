"""/datasets/{name}/contamination: how much of a dataset is in what models are trained on."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query

from control.access.dataset_owners import DatasetOwners
from control.access.view import Viewer
from control.errors import NotFound
from control.services import Given
from control.shards.inbox import ShardInbox
from control.shards.view import file_of
from stepserve.jobs.eval_ports import ContaminationReports, TrainingText
from stepserve.paths import Layout

_MOST_SHARDS = 10_000


def router_of(reports: ContaminationReports) -> APIRouter:
    router = APIRouter()

    @router.get("/datasets/{name:path}/contamination")
    async def contamination(
        name: str,
        inbox: Given[ShardInbox],
        owners: Given[DatasetOwners],
        layout: Given[Layout],
        view: Viewer,
        against: Annotated[list[str] | None, Query(max_length=100)] = None,
        shards: bool = True,
    ) -> dict[str, Any]:
        """Against all published shards, and the datasets in `against`; answers when all of it was read."""
        for field, ref in (("name", name), *(("against", ref) for ref in against or [])):
            await asyncio.to_thread(owners.check, view, field, ref)
        texts = []
        for row in await inbox.published(None, None, _MOST_SHARDS, view) if shards else []:
            try:
                texts.append(TrainingText(row.name, await asyncio.to_thread(file_of, row, layout)))
            except NotFound:  # its file was taken away, and no copy is kept
                continue
        return await reports.report(name, layout.datasets, texts, against or [])

    return router
