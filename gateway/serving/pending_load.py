"""A model that somebody wants loaded, and who waits for it."""

from dataclasses import dataclass, field

from gateway.serving.switching.target import Target
from gateway.serving.tickets import Ticket
from gateway.serving.turns import Waiting
from stepserve.contract import ModelRef

LoadKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Wait:
    """Until a slot is idle or has ended, or what runs is over. `first`: nothing that needs room overtakes it."""

    obstacle: str
    first: bool = True


@dataclass(slots=True, eq=False)
class PendingLoad:
    """`unwanted`: it was unloaded before it was there."""

    target: Target
    tickets: list[Ticket] = field(default_factory=list)
    started: bool = False
    unwanted: bool = False

    @property
    def patient(self) -> bool:
        """Whether one of those who wait would wait for a busy slot."""
        return any(ticket.request.wait for ticket in self.tickets)

    @property
    def evicts(self) -> bool:
        """Whether an idle model is to leave for one of them."""
        return any(ticket.request.evicts for ticket in self.tickets)

    @property
    def starts(self) -> bool:
        """Whether one of them wants it loaded, and not just to wait for what is under way."""
        return any(ticket.starts for ticket in self.tickets)

    @property
    def since_s(self) -> float:
        """When the first of those came who are patient, else the first of all."""
        patient = [ticket.since_s for ticket in self.tickets if ticket.request.wait]
        return min(patient or [ticket.since_s for ticket in self.tickets])

    @property
    def keep_alive_s(self) -> float | None:
        """What the model is registered with, as the last of them knows it."""
        return self.tickets[-1].request.keep_alive_s if self.tickets else None

    def forget_the_gone(self) -> bool:
        """Whether somebody still waits."""
        self.tickets = [ticket for ticket in self.tickets if ticket.open]
        return bool(self.tickets)

    def waiting(self, load_s: float = 0.0) -> Waiting["PendingLoad"]:
        return Waiting(self, self.since_s, load_s, self.patient)


def key_of(model: ModelRef) -> LoadKey:
    return (model.id, model.digest, model.engine.model_dump_json() if model.engine is not None else "")
