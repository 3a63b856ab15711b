"""`stepserve status`: how the server is, on one screen."""

import typer

from stepserve.client.client import Client
from stepserve.client.errors import NotFound, Refused, Unavailable
from stepserve.client.results import ActiveModel, JobStats
from stepserve.client.terminal import EXIT_FAILED, AsJson, Host, facts, print_json, server_at
from stepserve.client.words import duration, moment


def status(host: Host = None, as_json: AsJson = False) -> None:
    """Health, active model and queue; exit code 1 unless requests can be served."""
    with server_at(host) as server:
        health = server.health()
        active, stats = _control(server)
    if as_json:
        print_json(
            {
                "health": health.as_json(),
                "active": active.as_json() if active else None,
                "jobs": stats.as_json() if stats else None,
            }
        )
    else:
        counted = stats.as_json() if stats else {}
        facts(
            server.url,
            [
                ("status", health.status),
                ("active model", active.id if active else health.active_model),
                ("fault", health.fault),
                ("digest", active.digest if active else None),
                ("since", moment(active.since) if active else None),
                ("control", health.control),
                ("GPU", health.gpu.get("device_name")),
                ("jobs", ", ".join(f"{count} {name}" for name, count in counted.items() if count)),
                ("up for", duration(health.uptime_seconds)),
            ],
        )
    if health.status not in {"ok", "degraded"}:
        raise typer.Exit(EXIT_FAILED)


def _control(server: Client) -> tuple[ActiveModel | None, JobStats | None]:
    """What control adds; a server whose control is down is worth a report too."""
    try:
        stats = server.job_stats()
    except (Unavailable, Refused):
        return None, None
    try:
        return server.active_model(), stats
    except NotFound:
        return None, stats
