"""Databases: those that the queue is tested on, and one in a base directory."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepserve.paths import Layout
from tests.integration.control_plane import settings_of
from tests.integration.fake_hub import FakeHub
from tests.integration.migrated import place_database
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


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A base directory with a migrated database."""
    settings = settings_of(tmp_path)
    place_database(settings)
    return settings.layout


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A model hub that is not running yet, in an environment that names no other."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    return FakeHub()
