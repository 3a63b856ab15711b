"""The tables of the fleet: its members, and rollouts, each with a row for every member that takes part."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from control.database.tables import Base


class FleetMemberRow(Base):
    """A gateway that joined. `token` is shown to it by control; it is made by the member for each of its runs.

    `hold`: `drain` or `cordon`, kept out by a person or a rollout (`reason`). `model`, `digest`, `version`: what it
    served when that changed last, so that a restart of control loses no ready member.
    """

    __tablename__ = "fleet_members"

    id: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str]
    token: Mapped[str]
    boot_id: Mapped[str]
    zone: Mapped[str]
    labels: Mapped[dict[str, Any]]
    devices: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    stepserve_version: Mapped[str]
    vllm_version: Mapped[str | None]
    hold: Mapped[str | None]
    reason: Mapped[str | None]
    model: Mapped[str | None]
    digest: Mapped[str | None]
    version: Mapped[int]
    joined_at: Mapped[datetime]

    __table_args__ = (CheckConstraint("hold IN ('drain', 'cordon')", name="hold"),)


class RolloutRow(Base):
    """A switch of the whole fleet, of one activation. Open while its state is not one of the last two. `version`: of
    weights that were pushed; 0: registered files.
    """

    __tablename__ = "rollouts"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    activation_id: Mapped[int] = mapped_column(ForeignKey("activations.id"), unique=True)
    model_id: Mapped[str]
    digest: Mapped[str]
    previous_id: Mapped[str]
    policy: Mapped[str]
    wave: Mapped[str]
    state: Mapped[str]
    error: Mapped[str | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(default=0, server_default="0")

    __table_args__ = (
        CheckConstraint("state IN ('staging', 'committing', 'rolling_back', 'committed', 'rolled_back')", name="state"),
        Index(None, "state"),
    )


class RolloutStepRow(Base):
    """One member in a rollout. `wave`: when it is its turn, from 0.."""

    __tablename__ = "rollout_steps"

    rollout_id: Mapped[int] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    member_id: Mapped[str] = mapped_column(primary_key=True)
    wave: Mapped[int]
    state: Mapped[str]
    error: Mapped[str | None]
    changed_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint(
            "state IN ('pending', 'staging', 'staged', 'committing', 'proved', 'failed', 'lost')", name="state"
        ),
    )
