"""The members of the fleet as jobs ask them: over the private API, by the tokens of their joins."""

from dataclasses import dataclass

from control.errors import ModelNotServed
from control.fleet.members import Member, Members
from stepserve.contract import AskRequest, AskResult, BatchRequest, BatchResult
from stepserve.fleet import Committed
from stepserve.jobs.ports import BatchEngine


@dataclass(frozen=True, slots=True)
class _MemberEngine:
    """Implements stepserve.jobs.ports.BatchEngine: what a member has not got beside any more is noted."""

    member: Member

    async def generate(self, request: BatchRequest) -> BatchResult:
        try:
            return await self.member.client.generate(request)
        except ModelNotServed:
            if request.digest is not None:
                self.member.beside.discard(Committed(model=request.model, digest=request.digest))
            raise

    async def ask(self, request: AskRequest) -> AskResult:
        return await self.member.client.ask(request)


@dataclass(frozen=True, slots=True)
class MemberGateway:
    """Implements control.jobs.spread_engine.JobGateway."""

    member: Member
    members: Members

    @property
    def id(self) -> str:
        return self.member.id

    @property
    def engine(self) -> BatchEngine:
        return _MemberEngine(self.member)

    def still_answers(self) -> bool:
        """One that drains, or takes its turn in a rollout, does; one that was started anew is another."""
        if self.members.find(self.member.id) is not self.member or self.member.hold == "cordon":
            return False
        return not self.members.is_lost(self.member)


@dataclass(frozen=True, slots=True)
class JobMembers:
    """Implements control.jobs.spread_engine.JobFleet."""

    members: Members

    @property
    def has_members(self) -> bool:
        return not self.members.is_empty

    def serving(self, model_id: str, digest: str) -> list[MemberGateway]:
        """The ready ones with those files, active or beside, and those that are set apart for them; weights that were
        pushed have a digest of their own.
        """
        wanted = Committed(model=model_id, digest=digest)
        ready = [each for each in self.members.ready() if each.serves == wanted or wanted in each.beside]
        return [MemberGateway(each, self.members) for each in (*ready, *self.members.apart_for(wanted))]
