"""How a switch is to go, and what has to be so still when it begins."""

from dataclasses import dataclass

from control.errors import Superseded
from control.models.activation_log import ActiveModel
from stepserve.contract import GatewayState, InFlightPolicy, ModelRef, SwitchMethod
from stepserve.fleet import RolloutPolicy, Wave


@dataclass(frozen=True, slots=True)
class SwitchWish:
    """How a switch is to go; the same fields as the gateway's ActivateRequest.

    `spares_pushed`: it is refused where it would end weights that were pushed, which are on no disk. On a fleet, `wave`
    says how many gateways switch at once, and `policy` whether one that fails takes all back.
    """

    method: SwitchMethod = "auto"
    in_flight: InFlightPolicy = "finish"
    timeout_s: float = 300.0
    spares_pushed: bool = False
    wave: Wave = "25%"
    policy: RolloutPolicy = "all"


@dataclass(frozen=True, slots=True)
class SwitchCondition:
    """What has to be so still when the switch begins: the content of its model, and what is active (None: nothing, or
    the model itself already), as its files are.
    """

    digest: str
    active_digest: str | None


def check(condition: SwitchCondition, model: ModelRef, active: ActiveModel | None, state: GatewayState | None) -> None:
    """Raises Superseded. Weights that were pushed are of no file, so a switch would end them for good."""
    if state is not None and state.active is not None and state.pushed is not None:
        pushed = f"version {state.pushed.number} of {state.active.id}"
        raise Superseded(f"{pushed} was pushed meanwhile, and {model.id} was not compared with it")
    if model.digest != condition.digest:
        raise Superseded(f"{model.id} has other content now ({model.digest}) than what was to become active")
    if active is not None and active.digest not in {model.digest, condition.active_digest}:
        raise Superseded(f"{active.id} became active meanwhile, and {model.id} was not compared with it")
