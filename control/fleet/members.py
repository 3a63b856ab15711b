"""The members as they are now: who joined, when each was heard last and what it serves; rows hold what must last."""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from control.database.fleet_tables import FleetMemberRow
from control.errors import Conflict, Forbidden, GatewayUnavailable, Invalid, NotFound, ServiceError
from control.fleet.member_book import Hold, MemberBook
from control.fleet.states import Facts, state_of
from control.gateway_client import GatewayClient
from control.tasks import uncut
from stepserve.address import normal_url
from stepserve.fleet import (
    LOCAL_MEMBER,
    MAX_CLOCK_DIFFERENCE_S,
    Committed,
    FleetDevice,
    FleetMember,
    HeartbeatAnswer,
    HeartbeatRequest,
    JoinAnswer,
    JoinRequest,
    MemberState,
)
from stepserve.fleet_settings import FleetSettings


@dataclass(slots=True, eq=False)
class Member:
    """A member of this moment. `heard_s`: by the clock of Members. `apart`: the model that jobs have it for.
    `beside`: what was loaded there for jobs beside what it `serves`, as far as is known. The rest is as in
    control.fleet.states.Facts.
    """

    row: FleetMemberRow
    client: GatewayClient
    heard_s: float
    serves: Committed | None
    serving: bool
    hold: str | None
    reason: str | None
    left: bool = False
    in_flight: int = 0
    in_turn: bool = False
    target: Committed | None = None
    trouble: str | None = None
    apart: Committed | None = None
    beside: set[Committed] = field(default_factory=set)

    @property
    def id(self) -> str:
        return self.row.id


class Members:
    """Until `open` there are none. `now_s` is the wall clock that joins are compared with, `clock_s` a monotonic one.

    `changed` is set whenever somebody should look again at what members serve.
    """

    def __init__(
        self,
        book: MemberBook,
        settings: FleetSettings,
        clock_s: Callable[[], float] = time.monotonic,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._book = book
        self._settings = settings
        self._clock_s = clock_s
        self._now_s = now_s
        self._members: dict[str, Member] = {}
        self._tls: ssl.SSLContext | None = None
        self._joining = asyncio.Lock()
        self.committed: Committed | None = None
        self.changed = asyncio.Event()

    async def open(self, is_former: Callable[[str], bool] = lambda _: False) -> None:
        """Takes the members of the database up: each has a lease's time to be heard again.

        `is_former`: the ids of replicas that this server started before and does not start now. They are forgotten,
        unless a person keeps them out; who is alive by that name all the same joins again by itself.
        """
        for row in await self._book.all():
            if is_former(row.id) and row.hold is None:
                await self._book.remove(row.id)
            else:
                self._take(row)

    async def close(self) -> None:
        for member in self._members.values():
            await member.client.close()

    @property
    def is_empty(self) -> bool:
        return not self._members

    @property
    def lease_s(self) -> float:
        """After so long a silence a member is lost."""
        return self._settings.lease_s

    def all(self) -> list[Member]:
        return list(self._members.values())

    def find(self, member_id: str) -> Member | None:
        return self._members.get(member_id)

    def get(self, member_id: str) -> Member:
        """Raises NotFound."""
        member = self._members.get(member_id)
        if member is None:
            raise NotFound(f"there is no member {member_id!r}: stepserve fleet status lists them")
        return member

    def state(self, member: Member) -> tuple[MemberState, str | None]:
        return state_of(self._facts(member), self.committed, self._settings.lease_s)

    def is_lost(self, member: Member) -> bool:
        return self.state(member)[0] == "lost"

    def ready(self) -> list[Member]:
        return [member for member in self._members.values() if self.state(member)[0] == "ready"]

    def apart_for(self, model: Committed) -> list[Member]:
        """Those that are set apart for it, and serve it."""
        apart = [each for each in self._members.values() if each.apart == model == each.serves and each.serving]
        return [each for each in apart if each.hold is None and not self.is_lost(each)]

    def set_apart(self, member: Member, model: Committed | None) -> None:
        """For jobs of that model alone; None: no more, and it is brought to what is committed."""
        member.apart = model
        self.changed.set()

    def counts(self) -> dict[MemberState, int]:
        counted: dict[MemberState, int] = {}
        for member in self._members.values():
            state = self.state(member)[0]
            counted[state] = counted.get(state, 0) + 1
        return counted

    async def join(self, request: JoinRequest) -> JoinAnswer:
        """Makes a gateway a member once control has reached it where it says that it is.

        A member that joined before and runs anew takes its own place. Raises Invalid (a wrong clock, an address that
        leads nowhere or elsewhere), and Conflict when a gateway of that id is alive.
        """
        self._check_clock(request)
        try:
            url = normal_url(request.url)
        except ValueError as error:
            raise Invalid(f"url: {error}") from error
        request = request.model_copy(update={"url": url})
        former = await self._former(request)
        client = self._client(url, request.token)
        try:
            await _check_reached(client, request)
            async with self._joining:
                if self._members.get(request.id) is not former:
                    raise Conflict(f"id: another gateway has just joined as {request.id!r}: choose another --id")
                row = await uncut(self._book.put(request))
                self._take(row, client)
        except BaseException:
            await client.close()
            raise
        if former is not None:
            await former.client.close()
        self.changed.set()
        lease_s = self._settings.lease_s
        return JoinAnswer(id=row.id, heartbeat_s=self._settings.heartbeat_s, lease_s=lease_s, committed=self.committed)

    async def beat(self, request: HeartbeatRequest) -> HeartbeatAnswer:
        """Raises NotFound for who is not a member (any more), Forbidden for another's token."""
        member = self.get(request.id)
        if request.token != member.row.token:
            raise Forbidden(f"another gateway has joined as {request.id!r} since")
        served = None
        if request.model is not None and request.digest is not None:
            served = Committed(model=request.model, digest=request.digest, version=request.version)
        before = (member.serves, member.serving, member.left)
        member.heard_s = self._clock_s()
        member.left = request.leaving
        member.in_flight = request.in_flight
        member.serving = request.serving
        if served != member.serves:
            member.serves = served
            await uncut(self._book.note_served(member.id, served))
        if before != (member.serves, member.serving, member.left):
            self.changed.set()
        state, reason = self.state(member)
        return HeartbeatAnswer(state=state, reason=reason, committed=self.committed)

    async def note_switched(self, member: Member, served: Committed) -> None:
        """It serves that, proved, as its own answer to the switch says; its next heartbeat will say so too."""
        member.serves, member.serving, member.trouble = served, True, None
        await uncut(self._book.note_served(member.id, served))
        self.changed.set()

    async def note_lost(self) -> None:
        """What a lost member serves is not known, so that a restart of control does not take it for ready."""
        for member in self.all():
            if member.serves is not None and self.is_lost(member):
                member.serves, member.serving = None, False
                await uncut(self._book.note_served(member.id, None))

    async def hold(self, member_id: str, hold: Hold | None, reason: str | None = None) -> Member:
        """Keeps a member out, or no more. Raises NotFound."""
        member = self.get(member_id)
        await uncut(self._book.hold(member_id, hold, reason))
        member = self._members.get(member_id, member)  # it may have joined anew meanwhile
        member.hold, member.reason = hold, reason
        if hold is None:
            member.apart = None
        self.changed.set()
        return member

    async def remove(self, member_id: str) -> None:
        """Forgets a lost member. Raises NotFound, and Conflict for one that is alive: it would only join again."""
        member = self.get(member_id)
        if not self.is_lost(member):
            raise Conflict(f"{member_id} is alive at {member.row.url}: stop it there first, or cordon it")
        await uncut(self._book.remove(member_id))
        if self._members.get(member_id) is member:
            del self._members[member_id]
        await member.client.close()

    def shown(self, members: Iterable[Member] | None = None) -> list[FleetMember]:
        return [self._show(member) for member in (self.all() if members is None else members)]

    def _show(self, member: Member) -> FleetMember:
        row, served = member.row, member.serves
        state, reason = self.state(member)
        return FleetMember(
            id=row.id,
            url=row.url,
            zone=row.zone,
            labels={str(key): str(value) for key, value in row.labels.items()},
            devices=[FleetDevice.model_validate(device) for device in row.devices],
            state=state,
            model=served.model if served else None,
            digest=served.digest if served else None,
            version=served.version if served else 0,
            in_flight=member.in_flight,
            heartbeat_age_s=round(self._clock_s() - member.heard_s, 3),
            stepserve_version=row.stepserve_version,
            vllm_version=row.vllm_version,
            reason=reason,
        )

    def _facts(self, member: Member) -> Facts:
        return Facts(
            silent_s=self._clock_s() - member.heard_s,
            left=member.left,
            hold=member.hold,
            hold_reason=member.reason,
            apart=member.apart.model if member.apart is not None else None,
            serving=member.serving,
            serves=member.serves,
            in_flight=member.in_flight,
            target=member.target,
            in_turn=member.in_turn,
            trouble=member.trouble,
        )

    def _take(self, row: FleetMemberRow, client: GatewayClient | None = None) -> None:
        served = None
        if row.model is not None and row.digest is not None:
            served = Committed(model=row.model, digest=row.digest, version=row.version)
        self._members[row.id] = Member(
            row=row,
            client=client or self._client(row.url, row.token),
            heard_s=self._clock_s(),
            serves=served,
            serving=served is not None,
            hold=row.hold,
            reason=row.reason,
        )

    def _client(self, url: str, token: str) -> GatewayClient:
        if self._tls is None:
            self._tls = self._settings.tls()
        return GatewayClient.of_member(url, token, self._tls, look_every_s=self._settings.heartbeat_s)

    def _check_clock(self, request: JoinRequest) -> None:
        ahead_s = request.now_s - self._now_s()
        if abs(ahead_s) > MAX_CLOCK_DIFFERENCE_S:
            words = "ahead of" if ahead_s > 0 else "behind"
            raise Invalid(
                f"now_s: the clock of {request.id} is {abs(ahead_s):.0f} s {words} control's, and at most"
                f" {MAX_CLOCK_DIFFERENCE_S:g} s are allowed: set both by NTP"
            )

    async def _former(self, request: JoinRequest) -> Member | None:
        """Whose place the gateway takes. Raises Invalid for a reserved id, Conflict for one whose gateway is alive."""
        if request.id == LOCAL_MEMBER:
            raise Invalid(f"id: {LOCAL_MEMBER!r} is the gateway on control's machine: choose another")
        present = self._members.get(request.id)
        if present is None or present.row.token == request.token or self.is_lost(present):
            return present
        try:
            state = await present.client.state()
        except ServiceError:
            return present  # the gateway that had this place does not run any more
        if state.boot_id == present.row.boot_id:
            raise Conflict(
                f"id: a gateway at {present.row.url} has joined as {request.id!r} and is alive: choose another --id"
            )
        return present


async def _check_reached(client: GatewayClient, request: JoinRequest) -> None:
    """That who joins is who answers at the address. Raises Invalid."""
    advice = "give the address at which control's machine reaches it with --advertise"
    try:
        state = await client.state()
    except GatewayUnavailable as error:
        raise Invalid(f"url: control cannot reach {request.url} ({error}): {advice}") from error
    except ServiceError as error:
        raise Invalid(
            f"url: another program, or another gateway, answers at {request.url} ({error}): {advice}"
        ) from error
    if state.boot_id != request.boot_id:
        raise Invalid(f"url: another gateway answers at {request.url}: {advice}")
