"""Where and when the visitor is, as the browser says."""

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from ui.format import ago, moment


def zone() -> tzinfo:
    """UTC where the browser does not say, or names a zone that this machine does not know."""
    name = st.context.timezone
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def local(when: datetime | None) -> str:
    return moment(when, zone())


def since(when: datetime | None) -> str:
    """`3 min ago`."""
    return ago(when, datetime.now(UTC))


def hover(when: datetime | None) -> str | None:
    """For a tooltip: the visitor's time, and UTC for who compares it with a log."""
    return None if when is None else f"{local(when)} = {moment(when)}"
