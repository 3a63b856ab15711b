"""docs/errors.md has every code that a client of the gateway can meet."""

import re

from gateway.errors import GatewayError
from gateway.upstream.errors import UpstreamError
from tests.documents import DOCS

BETWEEN_PROCESSES = {"canary_running", "join_refused", "no_space", "stage_failed"}
"""Codes of the private API and of joining, which control or `stepserve join` puts into words of its own."""


def codes(error: type[GatewayError]) -> set[str]:
    return {error.code}.union(*(codes(below) for below in error.__subclasses__()))


def test_every_code_has_a_row() -> None:
    rows = [line for line in (DOCS / "errors.md").read_text().splitlines() if re.match(r"\| [45]\d\d \|", line)]
    described = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row.split("|")[2])}
    assert sorted((codes(GatewayError) | codes(UpstreamError)) - described - BETWEEN_PROCESSES) == []
