import pytest

from gateway.status.information import health_status, serving
from stepserve.contract import GatewayState, SlotHealth, SlotPhase, SlotState
from tests.unit.gateway.fakes import model


def _state(
    phase: SlotPhase | None, *, active: bool = True, switching: bool = False, health: SlotHealth = "ok"
) -> GatewayState:
    slots: list[SlotState] = []
    if phase is not None:
        slots = [
            SlotState(
                model=model("a"),
                active=True,
                phase=phase,
                health=health,
                in_flight=0,
                load_duration_s=1,
                max_model_len_tokens=512,
            )
        ]
    return GatewayState(
        boot_id="x",
        pid=1,
        active=model("a") if active else None,
        switching_to="b" if switching else None,
        slots=slots,
        held=0,
    )


@pytest.mark.parametrize(
    ("state", "control_up", "status", "serves"),
    [
        (_state("ready"), True, "ok", True),
        (_state("ready"), False, "degraded", True),
        (_state(None, active=False), True, "loading", False),
        (_state("draining", switching=True), True, "loading", False),
        (_state("dead"), True, "error", False),
        (_state(None), True, "error", False),
        (_state("ready", health="suspect"), True, "degraded", True),
        (_state("ready", health="failed"), True, "error", False),
    ],
)
def test_health(state: GatewayState, control_up: bool, status: str, serves: bool) -> None:
    assert health_status(state, control_up) == status
    assert serving(state) is serves
