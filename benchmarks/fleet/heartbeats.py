"""What heartbeats and the view cost: a real control in this process, members that only say that they are there."""

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from control.app import create_app
from control.database.database import Database, database_url
from control.fleet.member_book import MemberBook
from gateway.balancing.members import Members
from gateway.balancing.metrics import MemberLabels
from stepserve import __version__
from stepserve.fleet import FLEET_HEARTBEAT_PATH, FLEET_PATH, FleetView, HeartbeatRequest, JoinRequest
from stepserve.settings import Settings

_TOKEN = "t" * 43


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of one process, each in milliseconds. `view_bytes`: of GET /fleet."""

    heartbeat_ms: float
    show_ms: float
    take_ms: float
    view_bytes: int
    heartbeats_per_s: float

    @property
    def control_cores(self) -> float:
        """Of all heartbeats, and of a gateway that asks for the view twice a second."""
        return (self.heartbeat_ms * self.heartbeats_per_s + 2 * self.show_ms) / 1e3


async def cost_of(count: int, rounds: int) -> Cost:
    """Of `count` members that beat `rounds` times each. Requests go straight to control's app, through no socket."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder:
        settings = Settings(base_dir=Path(folder), install_demo=False)
        settings.layout.create()
        names = [f"g{number:03}" for number in range(count)]
        await _join(settings, names)
        app = create_app(settings, [])
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://control") as http,
        ):
            beats = [
                HeartbeatRequest(id=name, token=_TOKEN, model="m", digest="sha256:0", serving=True).model_dump_json()
                for name in names
            ]
            await _beat(http, beats)  # the first says something new
            started = time.process_time()
            for _ in range(rounds):
                await _beat(http, beats)
            heartbeat_ms = (time.process_time() - started) / (rounds * count) * 1e3
            started = time.process_time()
            for _ in range(10):
                answer = await http.get(FLEET_PATH)
                answer.raise_for_status()
            show_ms = (time.process_time() - started) * 100
    members = Members(lambda: None, labels=MemberLabels(most=0))
    started = time.process_time()
    for _ in range(10):
        members.put(FleetView.model_validate_json(answer.content))
    take_ms = (time.process_time() - started) * 100
    return Cost(heartbeat_ms, show_ms, take_ms, len(answer.content), count / settings.fleet.heartbeat_s)


async def _join(settings: Settings, names: list[str]) -> None:
    """As if each had joined an earlier control: nobody is called back."""
    database = Database(database_url(settings.layout.database))
    await database.migrate()
    book = MemberBook(database)
    for name in names:
        await book.put(
            JoinRequest(
                id=name,
                url=f"http://{name}.invalid:8765",
                token=_TOKEN,
                boot_id="b",
                stepserve_version=__version__,
                now_s=time.time(),
            )
        )
    await database.close()


async def _beat(http: httpx.AsyncClient, beats: list[str]) -> None:
    for beat in beats:
        answer = await http.post(FLEET_HEARTBEAT_PATH, content=beat, headers={"content-type": "application/json"})
        answer.raise_for_status()
