"""Room for one more model: a table."""

import pytest

from gateway.errors import NoRoom
from gateway.serving.loaded_models import LoadedModels
from gateway.serving.room import Evict, Wait, room_for
from gateway.serving.slot import Slot
from gateway.serving.switching.plan import Memory
from tests.unit.gateway.fakes import FakeEngine, model, signature

ROOMY, FULL = Memory(10_000, 100), Memory(500, 100)
WANTED = model("wanted", signature())


class Counted(Slot):
    """With so many requests inside."""

    inside = 0

    @property
    def in_flight(self) -> int:
        return self.inside


def slot(name: str, *, last_used_s: float = 0.0, inside: int = 0) -> Counted:
    made = Counted(model(name), FakeEngine(model(name)), 1.0)
    made.last_used_s, made.inside = last_used_s, inside
    return made


OLD, RECENT = slot("old", last_used_s=1.0), slot("recent", last_used_s=2.0)
BUSY = slot("busy", inside=1)


@pytest.mark.parametrize(
    ("loaded", "memory", "max_loaded", "taken", "expected"),
    [
        (LoadedModels(), ROOMY, 2, set(), "start"),
        (LoadedModels(others=(OLD,)), ROOMY, 3, set(), "start"),
        (LoadedModels(others=(RECENT, OLD)), ROOMY, 3, set(), Evict(OLD)),
        (LoadedModels(others=(RECENT, OLD)), ROOMY, 3, {OLD}, Evict(RECENT)),
        (LoadedModels(others=(BUSY, OLD)), FULL, 4, set(), Evict(OLD)),
    ],
)
def test_who_leaves(
    loaded: LoadedModels, memory: Memory, max_loaded: int, taken: set[object], expected: object
) -> None:
    assert room_for(WANTED, loaded, memory, max_loaded, taken=taken, patient=True) == expected


@pytest.mark.parametrize(
    "loaded",
    [
        LoadedModels(others=(BUSY,)),
        LoadedModels(leaving=(BUSY,)),
        LoadedModels(leaving=(OLD,)),
        LoadedModels(others=(OLD,), leaving=(RECENT,)),
    ],
    ids=["busy", "draining", "ending", "one ends already"],
)
def test_a_wait(loaded: LoadedModels) -> None:
    assert isinstance(room_for(WANTED, loaded, ROOMY, 2, taken=(), patient=True), Wait)


@pytest.mark.parametrize(
    ("loaded", "memory", "max_loaded", "patient", "reason"),
    [
        (LoadedModels(), ROOMY, 1, True, "max_loaded_models is 1"),
        (LoadedModels(), FULL, 2, True, "a second engine needs"),
        (LoadedModels(others=(BUSY,)), ROOMY, 2, False, "2 models are loaded"),
    ],
)
def test_no_room(loaded: LoadedModels, memory: Memory, max_loaded: int, patient: bool, reason: str) -> None:
    with pytest.raises(NoRoom, match=reason):
        room_for(WANTED, loaded, memory, max_loaded, taken=(), patient=patient)


def test_nobody_leaves_for_a_model_of_unknown_size() -> None:
    with pytest.raises(NoRoom, match="not known"):
        room_for(model("wanted"), LoadedModels(others=(OLD,)), ROOMY, 2, taken=(), patient=True)
