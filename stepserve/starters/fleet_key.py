"""The API key that replicas join with: made by the server itself where keys are demanded, of the scope fleet alone."""

import socket
import threading
from typing import Any

import httpx

from stepserve.settings import Settings
from stepserve.starters.placing import ClusterRefused

NAME = "replicas on Ray"
_LOOK_EVERY_S = 0.5
_TIMEOUT_S = 30.0


def fleet_key(settings: Settings, stop: threading.Event) -> str | None:
    """The settings' own; else a new one, and those of former starts are revoked. None where no key is demanded.

    Waits until control answers, or `stop` is set. Raises ClusterRefused.
    """
    if settings.fleet.api_key is not None:
        return settings.fleet.api_key.get_secret_value()
    if settings.access.mode == "open" or not _control_listens(settings, stop):
        return None
    transport = httpx.HTTPTransport(uds=str(settings.layout.control_socket))
    with httpx.Client(transport=transport, base_url="http://control", timeout=_TIMEOUT_S) as control:
        try:
            return _made(control, settings)
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise ClusterRefused(f"No key could be made for the replicas ({error}): set fleet.api_key.") from error


def _made(control: httpx.Client, settings: Settings) -> str | None:
    """Raises httpx.HTTPError; KeyError, ValueError for an answer that is not control's."""
    known: list[dict[str, Any]] = control.get("/keys").raise_for_status().json()["keys"]
    if not known and settings.access.mode == "auto" and settings.access.admin_key is None:
        return None
    made = control.post("/keys", json={"name": NAME, "scopes": ["fleet"]})
    if made.status_code != 201:
        raise ValueError(made.json().get("detail", made.status_code))
    for each in known:
        if each["name"] == NAME and each["status"] == "valid":
            control.delete(f"/keys/{each['id']}").raise_for_status()
    key: str = made.json()["key"]
    return key


def _control_listens(settings: Settings, stop: threading.Event) -> bool:
    """Waits for it. False: it is time to end."""
    while not stop.is_set():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(settings.layout.control_socket)) == 0:
                return True
        stop.wait(_LOOK_EVERY_S)
    return False
