"""SQL of webhooks and deliveries."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import ActivationRow, DeliveryRow, JobRow, ModelRow, WebhookRow
from control.errors import Conflict, NotFound
from control.jobs.states import LIVE
from control.notifications.events import Event, matches, of_activation, of_job, sentence
from control.notifications.webhook import WebhookRequest, new_secret

State = Literal["pending", "delivered", "dead"]
BACKOFFS_S: Final = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 3600.0 * 6, 3600.0 * 12)
"""After each failed attempt; after the last one the delivery is dead."""
KEPT: Final = timedelta(days=7)
_LEASE: Final = timedelta(seconds=180)
_AT_ONCE = 100
_LONGEST_ERROR = 500


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one webhook; `text` is what a person reads. `options` are a tracker's."""

    id: int
    webhook: str
    url: str | None
    target: str | None
    tracker: str | None
    options: dict[str, str]
    form: str
    secret: str
    content: dict[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """`steps`: the training step of each job's model, by the job's id, while that is registered."""

    jobs: Sequence[JobRow] = ()
    steps: Mapping[str, int | None] = field(default_factory=dict)
    switches: Sequence[ActivationRow] = ()

    def __bool__(self) -> bool:
        return bool(self.jobs or self.switches)


class Outbox:
    """Every method is one transaction."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def webhooks(self) -> Sequence[WebhookRow]:
        async with self._database.transaction() as session:
            return (await session.scalars(select(WebhookRow).order_by(WebhookRow.name))).all()

    async def put(self, name: str, wanted: WebhookRequest) -> tuple[WebhookRow, bool]:
        """The webhook, and whether it is new. Without a secret of its own a new one gets one."""
        async with self._database.alone() as session:
            row = await session.get(WebhookRow, name)
            new = row is None
            if row is None:
                row = WebhookRow(name=name, secret=new_secret(), created_at=self._clock())
                session.add(row)
            row.url, row.target, row.tracker = wanted.url, wanted.target, wanted.tracker
            row.options = wanted.options or None
            row.events, row.form = wanted.wanted_events, wanted.form
            if wanted.secret is not None:
                row.secret = wanted.secret
        return row, new

    async def remove(self, name: str) -> None:
        """With its deliveries. Raises NotFound."""
        async with self._database.transaction() as session:
            await session.execute(delete(DeliveryRow).where(DeliveryRow.webhook == name))
            found = await session.execute(delete(WebhookRow).where(WebhookRow.name == name).returning(WebhookRow.name))
            if found.first() is None:
                raise NotFound(f"there is no webhook {name!r}")

    async def tell(self, name: str, event: Event) -> int:
        """One event for one webhook, whatever it wants; the delivery's id. Raises NotFound."""
        async with self._database.transaction() as session:
            webhook = await session.get(WebhookRow, name)
            if webhook is None:
                raise NotFound(f"there is no webhook {name!r}")
            row = self._delivery(webhook, event)
            session.add(row)
            await session.flush()
            return row.id

    async def add(self, events: Iterable[Event]) -> None:
        """For all who want them, unless they have been told already, or were made webhooks later."""
        async with self._database.alone() as session:
            await self._add(session, events)

    async def ended(self) -> Ended:
        """Up to a hundred jobs and switches each that are over and not announced."""
        same = (ModelRow.id == JobRow.model_id) & (ModelRow.digest == JobRow.model_digest)
        jobs = (
            select(JobRow, ModelRow.step)
            .outerjoin(ModelRow, same)
            .where(JobRow.unannounced.is_(True), JobRow.status.not_in(LIVE))
            .order_by(JobRow.finished_at)
            .limit(_AT_ONCE)
        )
        switches = (
            select(ActivationRow)
            .where(ActivationRow.unannounced.is_(True), ActivationRow.status != "running")
            .order_by(ActivationRow.id)
            .limit(_AT_ONCE)
        )
        async with self._database.transaction() as session:
            found = (await session.execute(jobs)).all()
            steps = {job.id: step for job, step in found}
            return Ended([job for job, _ in found], steps, (await session.scalars(switches)).all())

    async def announce(self, ended: Ended, more: Iterable[Event]) -> None:
        """Deliveries for these ends and for `more`, unless they were announced, or tried again, meanwhile."""
        async with self._database.alone() as session:
            events = [
                event
                for row, event in (
                    *((job, of_job(job, ended.steps.get(job.id))) for job in ended.jobs),
                    *_with_events(ended.switches),
                )
                if await _mark(session, row)
            ]
            await self._add(session, [*events, *more])

    async def _add(self, session: AsyncSession, events: Iterable[Event]) -> None:
        webhooks = (await session.scalars(select(WebhookRow))).all()
        for event in events:
            for webhook in webhooks:
                if event.at < webhook.created_at or not matches(webhook.events, event.name):
                    continue
                same = select(DeliveryRow.id).where(
                    DeliveryRow.webhook == webhook.name, DeliveryRow.event_id == event.id
                )
                if await session.scalar(same.limit(1)) is None:
                    session.add(self._delivery(webhook, event))

    def _delivery(self, webhook: WebhookRow, event: Event) -> DeliveryRow:
        now = self._clock()
        return DeliveryRow(
            webhook=webhook.name,
            event=event.name,
            event_id=event.id,
            content=event.content(),
            text=sentence(event),
            state="pending",
            attempts=0,
            next_at=now,
            created_at=now,
        )

    async def take(self, limit: int, *, trackers: bool, besides: Collection[str] = ()) -> list[Delivery]:
        """Those that are due, of trackers or of all others, but not of the webhooks in `besides`; nobody else takes
        them for longer than one may take.
        """
        now = self._clock()
        due = (
            select(DeliveryRow, WebhookRow)
            .join(WebhookRow, WebhookRow.name == DeliveryRow.webhook)
            .where(DeliveryRow.state == "pending", DeliveryRow.next_at <= now)
            .where(WebhookRow.tracker.is_not(None) if trackers else WebhookRow.tracker.is_(None))
            .where(WebhookRow.name.not_in(list(besides)))
            .order_by(DeliveryRow.next_at, DeliveryRow.id)
            .limit(limit)
        )
        async with self._database.transaction() as session:
            if await session.scalar(due.limit(1)) is None:
                return []
        async with self._database.alone() as session:
            found = (await session.execute(due)).all()
            for row, _ in found:
                row.next_at = now + _LEASE
            return [
                Delivery(
                    id=row.id,
                    webhook=hook.name,
                    url=hook.url,
                    target=hook.target,
                    tracker=hook.tracker,
                    options=hook.options or {},
                    form=hook.form,
                    secret=hook.secret,
                    content=row.content,
                    text=row.text,
                )
                for row, hook in found
            ]

    async def delivered(self, delivery: Delivery) -> None:
        values = {"state": "delivered", "delivered_at": self._clock(), "error": None}
        await self._settle(delivery, values)

    async def failed(self, delivery: Delivery, reason: str, *, final: bool) -> None:
        async with self._database.transaction() as session:
            row = await session.get(DeliveryRow, delivery.id)
            if row is None:  # its webhook was removed meanwhile
                return
            row.attempts += 1
            row.error = reason[:_LONGEST_ERROR]
            if final or row.attempts > len(BACKOFFS_S):
                row.state = "dead"
            else:
                row.next_at = self._clock() + timedelta(seconds=BACKOFFS_S[row.attempts - 1])

    async def _settle(self, delivery: Delivery, values: dict[str, Any]) -> None:
        changed = update(DeliveryRow).where(DeliveryRow.id == delivery.id)
        async with self._database.transaction() as session:
            await session.execute(changed.values(attempts=DeliveryRow.attempts + 1, **values))

    async def deliveries(self, state: State | None, webhook: str | None, limit: int) -> Sequence[DeliveryRow]:
        """Newest first."""
        statement = select(DeliveryRow).order_by(DeliveryRow.id.desc()).limit(limit)
        if state is not None:
            statement = statement.where(DeliveryRow.state == state)
        if webhook is not None:
            statement = statement.where(DeliveryRow.webhook == webhook)
        async with self._database.transaction() as session:
            return (await session.scalars(statement)).all()

    async def try_again(self, delivery_id: int) -> DeliveryRow:
        """A dead delivery is due again, as if it had never been tried. Raises NotFound, Conflict."""
        async with self._database.transaction() as session:
            row = await session.get(DeliveryRow, delivery_id)
            if row is None:
                raise NotFound(f"there is no delivery {delivery_id}")
            if row.state != "dead":
                raise Conflict(f"delivery {delivery_id} is {row.state}: only a dead one can be tried again")
            row.state, row.attempts, row.next_at = "pending", 0, self._clock()
            return row

    async def next_due(self) -> datetime | None:
        async with self._database.transaction() as session:
            return await session.scalar(select(func.min(DeliveryRow.next_at)).where(DeliveryRow.state == "pending"))

    async def forget_old(self) -> None:
        """Deliveries that were settled a week ago."""
        before = self._clock() - KEPT
        old = or_(DeliveryRow.state == "delivered", DeliveryRow.state == "dead")
        async with self._database.transaction() as session:
            await session.execute(delete(DeliveryRow).where(old, DeliveryRow.created_at < before))


def _with_events(switches: Sequence[ActivationRow]) -> list[tuple[JobRow | ActivationRow, Event]]:
    return [(row, of_activation(row)) for row in switches]


async def _mark(session: AsyncSession, row: JobRow | ActivationRow) -> bool:
    """Whether it is as it was read, and nobody has announced it yet."""
    table = type(row)
    same = (table.id == row.id, table.status == row.status, table.unannounced.is_(True))
    return (
        await session.execute(update(table).where(*same).values(unannounced=None).returning(table.id))
    ).first() is not None
