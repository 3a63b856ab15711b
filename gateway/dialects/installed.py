"""Dialects of other packages: entry points in the group `stepserve.dialects` whose object is a `Dialect`.

A dialect translates requests in another API's vocabulary for vLLM's own routes, through `Call.whole` and `Call.stream`.
Access, limits, metrics and /openapi.json treat its routes as they do ours.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from gateway.dialects.router import Route
from gateway.dialects.served import Served
from stepserve import route_table
from stepserve.deprecation import Deprecation
from stepserve.route_table import Envelope

GROUP = "stepserve.dialects"


class DialectRefused(Exception):
    """An installed dialect that cannot be served; the text names its entry point."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """`prefix`: one segment, such as /cohere, below which its routes lie. `envelope`: how its requests are refused.

    `deprecation`: its routes will be removed; every answer says so in headers.
    """

    prefix: str
    envelope: Envelope
    routes: Callable[[Served], Sequence[Route]]
    deprecation: Deprecation | None = None


def installed_routes(served: Served) -> list[Route]:
    """Adds every installed dialect to the table of routes. Raises DialectRefused."""
    seen: dict[str, str] = {}
    routes: list[Route] = []
    for point in sorted(entry_points(group=GROUP)):
        dialect = _load(point)
        if dialect.prefix in seen:
            raise DialectRefused(f"dialect {point.name}: {seen[dialect.prefix]} has the prefix {dialect.prefix} too")
        seen[dialect.prefix] = point.name
        added = dialect.routes(served)
        _install(point, dialect, added)
        routes += added
    return routes


def _load(point: EntryPoint) -> Dialect:
    try:
        dialect = point.load()
    except (ImportError, AttributeError) as error:
        raise DialectRefused(f"dialect {point.name}: {point.value} cannot be imported: {error}") from error
    if not isinstance(dialect, Dialect):
        raise DialectRefused(f"dialect {point.name}: {point.value} is not a gateway.dialects.installed.Dialect")
    return dialect


def _install(point: EntryPoint, dialect: Dialect, routes: Iterable[Route]) -> None:
    try:
        named = [(route.method, route.path) for route in routes]
        route_table.install(dialect.prefix, dialect.envelope, named, dialect.deprecation)
    except ValueError as error:
        raise DialectRefused(f"dialect {point.name}: {error}") from error
