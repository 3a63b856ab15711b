"""The members of the fleet as jobs ask them: over the private API, by the tokens of their joins."""

from dataclasses import dataclass

from control.fleet.members import Member, Members
from control.gateway_client import GatewayClient
from stepserve.fleet import Committed


@dataclass(frozen=True, slots=True)
class MemberGateway:
    """Implements control.jobs.spread_engine.JobGateway."""

    member: Member
    members: Members

    @property
    def id(self) -> str:
        return self.member.id

    @property
    def engine(self) -> GatewayClient:
        return self.member.client

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
        """The ready ones with those files; weights that were pushed have a digest of their own."""
        wanted = Committed(model=model_id, digest=digest)
        return [MemberGateway(each, self.members) for each in self.members.ready() if each.serves == wanted]
