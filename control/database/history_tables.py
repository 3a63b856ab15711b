"""The table of what was measured: a row a minute, for as long as charts go back."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from control.database.tables import Base


class MinuteRow(Base):
    """`content` is a control.telemetry.samples.Sample of the minute that began at `at`."""

    __tablename__ = "history_minutes"

    at: Mapped[datetime] = mapped_column(primary_key=True)
    content: Mapped[dict[str, Any]]
