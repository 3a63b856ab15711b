"""Room for one more model, and whether to wait for it: tables."""

import pytest

from gateway.errors import NoRoom
from gateway.serving.loaded_models import LoadedModels
from gateway.serving.room import KEPT_ALIVE, KEPT_FOR_CANARY, check_hope, is_about_to_end, obstacle_to
from gateway.serving.slot import Slot
from tests.unit.gateway.fakes import FakeEngine, model, signature

FULL = "a second engine needs 8.0 GB and 3.0 GB are free"
WANTED = model("wanted", signature())


class Counted(Slot):
    """With so many requests inside."""

    inside = 0

    @property
    def in_flight(self) -> int:
        return self.inside


def slot(name: str, *, inside: int = 0) -> Counted:
    made = Counted(model(name), FakeEngine(model(name)), 1.0)
    made.inside = inside
    return made


IDLE, OTHER, BUSY = slot("idle"), slot("other"), slot("busy", inside=1)


@pytest.mark.parametrize(
    ("loaded", "shortage", "max_loaded", "obstacle"),
    [
        (LoadedModels(), None, 2, None),
        (LoadedModels(others=(IDLE,)), None, 3, None),
        (LoadedModels(others=(IDLE,)), None, 2, "2 models are loaded"),
        (LoadedModels(leaving=(BUSY,)), None, 2, "2 models are loaded"),
        (LoadedModels(others=(IDLE,)), FULL, 4, "a second engine needs"),
        (LoadedModels(others=(IDLE, OTHER, BUSY)), None, None, None),
        (LoadedModels(others=(IDLE, OTHER, BUSY)), FULL, None, "a second engine needs"),
    ],
)
def test_what_fits(loaded: LoadedModels, shortage: str | None, max_loaded: int | None, obstacle: str | None) -> None:
    found = obstacle_to(WANTED, loaded, shortage, max_loaded)
    assert (found or "").startswith(obstacle or "")
    assert (found is None) == (obstacle is None)


@pytest.mark.parametrize(
    ("leaving", "ends"),
    [((), False), ((BUSY,), False), ((IDLE,), True), ((BUSY, IDLE), True)],
    ids=["none", "busy", "idle", "both"],
)
def test_a_slot_that_is_about_to_end(leaving: tuple[Slot, ...], ends: bool) -> None:
    assert is_about_to_end(LoadedModels(leaving=leaving)) == ends


def test_no_room_whoever_leaves() -> None:
    with pytest.raises(NoRoom, match="max_loaded_models is 1"):
        obstacle_to(WANTED, LoadedModels(), None, 1)


@pytest.mark.parametrize(
    ("loaded", "kept", "patient", "reason", "retry_after_s"),
    [
        (LoadedModels(), {}, True, "full.$", 30.0),
        (LoadedModels(others=(BUSY,)), {}, False, "cannot be now: full", 5.0),
        (LoadedModels(others=(IDLE,)), {IDLE: KEPT_ALIVE}, True, r"idle is to stay \(keep_alive\)", None),
        (LoadedModels(others=(IDLE,)), {IDLE: KEPT_FOR_CANARY}, True, r"idle is to stay \(a canary\)", 30.0),
        (LoadedModels(others=(IDLE, OTHER)), {IDLE: KEPT_FOR_CANARY, OTHER: KEPT_ALIVE}, True, "and other is to", 30.0),
    ],
    ids=["nobody", "busy", "pinned", "canary", "both"],
)
def test_to_wait_is_vain(
    loaded: LoadedModels, kept: dict[Slot, str], patient: bool, reason: str, retry_after_s: float | None
) -> None:
    with pytest.raises(NoRoom, match=reason) as refused:
        check_hope(WANTED, "full", loaded, kept, patient=patient)
    assert refused.value.retry_after_s == retry_after_s


@pytest.mark.parametrize(
    ("loaded", "kept"),
    [
        (LoadedModels(others=(BUSY,)), {}),
        (LoadedModels(leaving=(BUSY,)), {}),
        (LoadedModels(others=(BUSY, IDLE)), {IDLE: KEPT_ALIVE}),
        (LoadedModels(others=(IDLE,), leaving=(BUSY,)), {IDLE: KEPT_ALIVE}),
    ],
    ids=["busy", "draining", "one may leave", "one leaves"],
)
def test_there_is_something_to_wait_for(loaded: LoadedModels, kept: dict[Slot, str]) -> None:
    check_hope(WANTED, "full", loaded, kept, patient=True)
