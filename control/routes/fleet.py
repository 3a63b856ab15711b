"""/fleet: the gateways that serve what this control plane commits, and what they ask of it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse

from control.access.key_book import KeyBook
from control.access.usage_book import UsageBook
from control.fleet.files import ModelFiles
from control.fleet.local import LocalMember
from control.fleet.members import Members
from control.fleet.pace import Pace, PacedFile
from control.fleet.rollouts import Rollouts
from control.routes.keys import sync
from control.services import Given
from stepserve.access import SyncAnswer, SyncRequest
from stepserve.fleet import (
    FileManifest,
    FleetMember,
    FleetView,
    HeartbeatAnswer,
    HeartbeatRequest,
    JoinAnswer,
    JoinRequest,
)

router = APIRouter(prefix="/fleet")


@router.get("")
async def show(members: Given[Members], local: Given[LocalMember], rollouts: Given[Rollouts]) -> FleetView:
    """Control's own gateway comes first. `rollout`: the one that runs, or the last one."""
    return FleetView(
        gateways=[await local.show(), *members.shown()],
        committed=members.committed,
        rollout=await rollouts.view(),
        lease_s=members.lease_s,
    )


@router.post("/join")
async def join(request: JoinRequest, members: Given[Members]) -> JoinAnswer:
    """Asked by a gateway; it is called back at its `url` before it is a member."""
    return await members.join(request)


@router.post("/heartbeat")
async def heartbeat(request: HeartbeatRequest, members: Given[Members]) -> HeartbeatAnswer:
    return await members.beat(request)


@router.post("/keys")
async def keys(request: SyncRequest, book: Given[UsageBook], keys: Given[KeyBook]) -> SyncAnswer:
    """A member's keys are control's, and its usage of them is counted here."""
    return await sync(request, book, keys)


@router.get("/files/{model_id}")
async def manifest(model_id: str, files: Given[ModelFiles]) -> FileManifest:
    return await files.manifest(model_id)


@router.get("/files/{model_id}/{name:path}", response_class=FileResponse)
async def content(
    model_id: str,
    name: str,
    files: Given[ModelFiles],
    pace: Given[Pace],
    digest: Annotated[str, Query(max_length=100)],
) -> FileResponse:
    """A file of a manifest with that `digest`, or a range of it (`Range`)."""
    return PacedFile(await files.path(model_id, name, digest), pace)


@router.post("/{member_id}/drain")
async def drain(member_id: str, members: Given[Members]) -> FleetMember:
    """It answers what it has and gets no more; it takes part in no switch until it is let in again."""
    return members.shown([await members.hold(member_id, "drain", "drained by hand")])[0]


@router.post("/{member_id}/cordon")
async def cordon(member_id: str, members: Given[Members]) -> FleetMember:
    return members.shown([await members.hold(member_id, "cordon", "cordoned by hand")])[0]


@router.post("/{member_id}/uncordon")
async def uncordon(member_id: str, members: Given[Members]) -> FleetMember:
    """It is brought to what is committed, and is ready then."""
    return members.shown([await members.hold(member_id, None)])[0]


@router.delete("/{member_id}")
async def remove(member_id: str, members: Given[Members]) -> dict[str, Any]:
    """Forgets a lost member; one that is alive is a 409."""
    await members.remove(member_id)
    return {"status": "removed", "id": member_id}
