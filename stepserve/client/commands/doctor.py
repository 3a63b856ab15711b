"""`stepserve doctor`: is everything between here and an answer in order?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from stepserve import __version__
from stepserve.client.client import Client
from stepserve.client.commands.config import settings_here
from stepserve.client.errors import Refused, StepserveError
from stepserve.client.terminal import EXIT_FAILED, AsJson, Host, print_json, server_at, table


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    good: bool
    said: str


def doctor(
    *,
    host: Host = None,
    here: Annotated[bool, typer.Option("--here", help="Check this machine instead, for a server on it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check address, key, versions, engine, queue and a first token; exit code 1 when something is wrong."""
    if here:
        where, findings = "this machine", _examine_machine()
    else:
        with server_at(host) as server:
            where, findings = server.url, _examine(server)
    if as_json:
        print_json([{"check": one.check, "good": one.good, "said": one.said} for one in findings])
    else:
        table(where, ["", "check", ""], [["✓" if one.good else "✗", one.check, one.said] for one in findings])
    if not all(one.good for one in findings):
        raise typer.Exit(EXIT_FAILED)


def _examine_machine() -> list[Finding]:
    settings = settings_here()
    from stepserve.machine.examination import examine

    return [Finding(check.name, check.good, check.said) for check in examine(settings)]


def _examine(server: Client) -> list[Finding]:
    """Later checks are left out once nobody answers at all."""
    first = _ask("reachable", lambda: f"it is {server.health().status}")
    if not first.good:
        return [first]
    checks: list[tuple[str, Callable[[], str]]] = [
        ("version", lambda: _same_version(server)),
        ("models", lambda: f"{len(server.list_models())} registered"),
        ("active model", lambda: server.active_model().id),
        ("jobs", lambda: _queue(server)),
        ("an answer", lambda: _first_token(server)),
    ]
    return [first, *(_ask(name, check) for name, check in checks)]


def _ask(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except StepserveError as error:
        return Finding(name, False, str(error))


def _same_version(server: Client) -> str:
    there = server.version().api_version
    if there.split(".")[:2] != __version__.split(".")[:2]:
        raise StepserveError(f"The server is {there}, this client {__version__}.")
    return there


def _queue(server: Client) -> str:
    stats = server.job_stats()
    return f"{stats.running} running, {stats.pending} pending, {stats.failed} failed"


def _first_token(server: Client) -> str:
    pieces = server.chat([{"role": "user", "content": "1+1?"}], max_tokens=1)
    try:
        next(pieces, "")
    except Refused as error:
        raise StepserveError(f"The active model takes no chat: {error.detail}") from error
    return "it generates"
