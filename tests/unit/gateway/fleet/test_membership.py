"""What a member calls itself where nobody says."""

import socket
from pathlib import Path

import httpx
import pytest
from pydantic import TypeAdapter

from gateway.fleet.membership import Membership
from stepserve.contract import GatewayState
from stepserve.fleet import MemberId
from stepserve.fleet_settings import FleetSettings
from stepserve.settings import Settings


@pytest.mark.parametrize(
    ("host", "called"),
    [
        ("gpu7.example.org", "gpu7-8765"),
        ("", "member-8765"),
        ("_a host", "a-host-8765"),
        ("deployment-" * 5 + "7d4b9c-x1", "ment-deployment-deployment-deployment-deployment-7d4b9c-x1-8765"),
    ],
)
def test_a_member_has_a_valid_id_on_any_machine(
    host: str, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    settings = Settings(base_dir=tmp_path, port=8765, fleet=FleetSettings(control="http://head:8765"))
    empty = GatewayState(boot_id="1", pid=1, active=None, switching_to=None, slots=[], held=0)
    found = Membership(settings, httpx.AsyncClient(), lambda: empty).id
    assert found == called
    TypeAdapter(MemberId).validate_python(found)
