"""Whether a member of a fleet reaches its control plane and the other members."""

import httpx
from pydantic import ValidationError

from stepserve import __version__
from stepserve.fleet import FleetMember, FleetView
from stepserve.machine.trouble import Trouble
from stepserve.settings import Settings

_TIMEOUT_S = 5.0


def reach(settings: Settings) -> str:
    """Of a gateway that is to be a member. Waits for each member that does not answer."""
    fleet = settings.fleet
    assert fleet.control is not None, "a member has a control plane"
    key = fleet.api_key.get_secret_value() if fleet.api_key is not None else None
    verify = fleet.tls()
    with httpx.Client(timeout=_TIMEOUT_S, verify=verify, trust_env=False) as http:
        view = _view(http, fleet.control, key)
        others = [each for each in view.gateways if each.url is not None and each.id != fleet.id]
        away = [said for each in others if each.state != "lost" and (said := _trouble_of(http, each)) is not None]
    if away:
        raise Trouble(
            f"{'; '.join(away)}: see to the network between these machines, and what each has as"
            " INFERENCE_FLEET__ADVERTISE"
        )
    lost = [each.id for each in others if each.state == "lost"]
    of_them = f", but for {', '.join(lost)}, which control has lost" if lost else ""
    return f"{fleet.control} and {len(others) - len(lost)} other members are reached{of_them}"


def _view(http: httpx.Client, control: str, key: str | None) -> FleetView:
    try:
        answer = http.get(f"{control}/fleet", headers={"authorization": f"Bearer {key}"} if key else {})
    except httpx.HTTPError as error:
        raise Trouble(
            f"{control} is not reached ({error}): see whether it runs, and to INFERENCE_FLEET__CONTROL"
        ) from None
    if answer.status_code in {401, 403}:
        raise Trouble(
            f"{control} does not take the key ({answer.status_code}): INFERENCE_FLEET__API_KEY must be one of its keys"
            " with the scope `fleet`"
        )
    try:
        answer.raise_for_status()
        return FleetView.model_validate_json(answer.content)
    except (httpx.HTTPStatusError, ValidationError):
        raise Trouble(
            f"{control} answers {answer.status_code} to /fleet, and not as Stepserve {__version__} does: see to"
            " INFERENCE_FLEET__CONTROL"
        ) from None


def _trouble_of(http: httpx.Client, member: FleetMember) -> str | None:
    try:
        answer = http.get(f"{member.url}/livez")
    except httpx.HTTPError as error:
        return f"{member.id} at {member.url} is not reached ({error})"
    if answer.status_code != 200:
        return f"{member.id} at {member.url} answers {answer.status_code} to /livez"
    return None
