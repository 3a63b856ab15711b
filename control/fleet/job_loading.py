"""A model that is not active, for a job: loaded beside the active one wherever in the fleet there is room for it."""

import asyncio
import logging

from control.errors import ServiceError
from control.fleet.bringing import Bringer, Wanted
from control.fleet.members import Member, Members
from control.models.loading import Loading
from control.tasks import Tasks
from stepserve.contract import ActivateRequest, LoadRequest
from stepserve.fleet import Committed

log = logging.getLogger(__name__)


class FleetLoading:
    """Implements control.jobs.side_loader.ModelLoader.

    Control's own gateway and every ready member are asked at once. Those that are slower than the first take part in
    the job as soon as they have it.
    """

    def __init__(self, loading: Loading, bringer: Bringer, members: Members) -> None:
        self._loading = loading
        self._bringer = bringer
        self._members = members
        self._tasks = Tasks()
        self._under_way: dict[tuple[Member, Committed], asyncio.Task[None]] = {}

    async def load_beside(self, model_id: str) -> None:
        """Returns when one gateway has it. Raises what control's own raises, when none has room."""
        members = self._members.ready()
        if not members:
            await self._loading.load_beside(model_id)
            return
        request = await self._loading.request_for(model_id)
        here = self._tasks.spawn(self._loading.load_beside(model_id), name=f"loading {model_id}")
        left = {here, *(self._on(member, request) for member in members)}
        while left:
            ended, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            if any(not task.cancelled() and task.exception() is None for task in ended):
                return
        here.result()

    async def request_for(self, model_id: str) -> LoadRequest:
        """As Loading.request_for."""
        return await self._loading.request_for(model_id)

    async def close(self) -> None:
        await self._tasks.close()

    def _on(self, member: Member, request: LoadRequest) -> asyncio.Task[None]:
        """The load there, begun unless it is under way."""
        key = member, Committed(model=request.model.id, digest=request.model.digest)
        task = self._under_way.get(key)
        if task is None:
            task = self._tasks.spawn(self._load(member, request, key[1]), name=f"loading on {member.id}")
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key))
        return task

    async def _load(self, member: Member, request: LoadRequest, content: Committed) -> None:
        try:
            wanted = Wanted(ActivateRequest(model=request.model))
            there = await self._bringer.stage(member, await self._bringer.staging_of(wanted))
            await member.client.load(request.model_copy(update={"model": there, "wait": False}))
        except ServiceError as error:
            log.info("%s does not load %s for a job: %s", member.id, content.model, error)
            raise
        member.beside.add(content)
