"""Which models are loaded: a value that the pool replaces, so that whoever holds one reads what was so at a moment."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from gateway.serving.slot import Loaded, Slot
from stepserve.contract import ModelRef


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """`serving`: the active model, a slot or an adapter on one; None while nothing is active.

    `others` answer to their own ids. `leaving` take no more requests and end when those inside are done.
    """

    serving: Loaded | None = None
    others: tuple[Slot, ...] = ()
    leaving: tuple[Slot, ...] = ()

    @property
    def active(self) -> Slot | None:
        """The active model's slot; an adapter's is its base's."""
        return self.serving.host if self.serving is not None else None

    @property
    def hosts(self) -> tuple[Slot, ...]:
        """Every slot that takes requests."""
        return (self.active, *self.others) if self.active is not None else self.others

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (*self.hosts, *self.leaving)

    @property
    def names(self) -> list[str]:
        """The ids that `answering` knows."""
        return [name for slot in self.others if not slot.dead for name in slot.names]

    def answering(self, name: str) -> Loaded | None:
        """The slot that is not the active one's, or the adapter on such a slot, that can answer to that id now."""
        alive = (slot for slot in self.others if not slot.dead and not slot.closed)
        return next((found for slot in alive if (found := slot.answering(name)) is not None), None)

    def beside(self, name: str) -> Loaded | None:
        """As `answering`, or what of that id is on the active model's engine and is not active itself."""
        found, active = self.answering(name), self.active
        if found is None and active is not None and not active.dead:
            found = active.answering(name)
        return None if found is self.serving else found

    def other(self, name: str) -> Slot | None:
        """The slot of that id that is not the active one's, dead or alive."""
        return next((slot for slot in self.others if slot.model.id == name), None)

    def hosting(self, model: ModelRef) -> Slot | None:
        """A living slot with this very content under this id."""
        alive = (slot for slot in self.hosts if not slot.dead)
        return next((slot for slot in alive if (slot.model.id, slot.model.digest) == (model.id, model.digest)), None)

    def idle(self, but: Collection[object]) -> list[Slot]:
        """Those of the others that nobody is inside of, `but` those; the least recently used first."""
        idle = [slot for slot in self.others if not slot.in_flight and slot not in but]
        return sorted(idle, key=lambda slot: slot.use.last_s)

    def serves(self, serving: Loaded | None, *, keep: bool) -> "LoadedModels":
        """`serving` is the active model from now on. The slot before it stays loaded (`keep`) or leaves."""
        before, now = self.active, serving.host if serving is not None else None
        others = tuple(slot for slot in self.others if slot is not now)
        if before is None or before is now:
            return replace(self, serving=serving, others=others)
        if keep:
            return replace(self, serving=serving, others=(*others, before))
        return replace(self, serving=serving, others=others, leaving=(*self.leaving, before))

    def keeps(self, slot: Slot) -> "LoadedModels":
        """A slot more that is not the active one's."""
        return replace(self, others=(*self.others, slot))

    def leaves(self, slot: Slot) -> "LoadedModels":
        """That slot, of the others or of none yet, takes no more requests."""
        others = tuple(each for each in self.others if each is not slot)
        return replace(self, others=others, leaving=(*self.leaving, slot))

    def left(self, slot: Slot) -> "LoadedModels":
        return replace(self, leaving=tuple(each for each in self.leaving if each is not slot))
