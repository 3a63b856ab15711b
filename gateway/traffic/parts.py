"""What of the gateway keeps traffic, put together by the settings."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.dialects.router import Route
from gateway.filtering.filter import Filter
from gateway.http.asgi import App
from gateway.sidecar.control_link import ControlProxy
from gateway.traffic.feedback import Feedback
from gateway.traffic.redactor import Redactor
from gateway.traffic.sampled import Sampled
from gateway.traffic.writer import TrafficWriter
from stepserve.settings import Settings
from stepserve.traffic import TRAFFIC_PATH, TrafficSettings


@dataclass(frozen=True, slots=True)
class Traffic:
    """`writer` is None where nothing is kept."""

    settings: TrafficSettings
    writer: TrafficWriter | None
    feedback: Route

    def sampled(self, app: App) -> App:
        """The app, heard where something may be kept of what it answers."""
        return app if self.writer is None else Sampled(app, self.writer, self.settings)

    async def settle(self, label: str) -> None:
        """Before control is asked for a route of that label. Raises ControlDown."""
        if self.writer is not None and label == TRAFFIC_PATH:
            await self.writer.settled()

    async def run(self) -> None:
        """Until cancelled, or done where nothing is kept."""
        if self.writer is not None:
            await self.writer.run()


def traffic_of(settings: Settings, control: ControlProxy, filters: Sequence[Filter]) -> Traffic:
    """A member of a fleet keeps nothing: what it answers for the fleet is kept there. Raises FilterRefused."""
    redactor = Redactor(settings.traffic, filters)
    keeps = settings.traffic.on and settings.fleet.control is None
    writer = TrafficWriter(control, redactor, settings.traffic) if keeps else None
    feedback = Feedback(control, redactor, writer, settings.traffic.max_exchange_bytes)
    return Traffic(settings.traffic, writer, feedback.route())
