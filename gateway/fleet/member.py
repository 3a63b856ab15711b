"""The parts of a gateway that is a member of a fleet, put together."""

from dataclasses import dataclass
from pathlib import Path

import httpx

from gateway.fleet.files import MemberFiles
from gateway.fleet.membership import Membership, control_client
from gateway.serving.pool import Pool
from stepserve.settings import Settings

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Member:
    membership: Membership
    files: MemberFiles
    control: httpx.AsyncClient
    peers: httpx.AsyncClient

    async def close(self) -> None:
        await self.control.aclose()
        await self.peers.aclose()


def member_of(settings: Settings, pool: Pool) -> Member | None:
    """None for a gateway with a control of its own."""
    if settings.fleet.control is None:
        return None
    control = control_client(settings)
    peers = httpx.AsyncClient(timeout=_TIMEOUT_S, verify=settings.fleet.tls(), trust_env=False)

    def in_use() -> list[Path]:
        models = [slot.model for slot in pool.snapshot().slots]
        return [Path(each.path) for model in models for each in (model, model.base) if each is not None]

    files = MemberFiles(settings.layout.fleet_models, control, peers, in_use)
    return Member(Membership(settings, control, pool.snapshot), files, control, peers)
