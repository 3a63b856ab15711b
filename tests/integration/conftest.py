"""The databases that the queue is tested on."""

import itertools
from collections.abc import Iterator

import pytest

from tests.integration.postgres import PostgresServer, postgres_server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def each_database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test on each: what is started in it, other processes too, finds its database in the environment."""
    name: str = request.param
    if name == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        monkeypatch.setenv("INFERENCE_DATABASE_URL", server.new_database(f"test_{next(_numbers)}"))
    return name
