"""Views of a fleet as control gives them."""

from typing import Any

from stepserve.fleet import LOCAL_MEMBER, Committed, FleetMember, FleetView

MODEL, DIGEST = "m", "sha256:0"


def member(name: str, **said: Any) -> FleetMember:
    url = None if name == LOCAL_MEMBER else f"http://{name}.test:8765"
    fields = {
        "url": url, "state": "ready", "model": MODEL, "digest": DIGEST, "heartbeat_age_s": 0.1,
        "stepserve_version": "0",
    }  # fmt: skip
    return FleetMember.model_validate({"id": name, **fields, **said})


def view(*members: FleetMember, digest: str = DIGEST, version: int = 0) -> FleetView:
    committed = Committed(model=MODEL, digest=digest, version=version)
    return FleetView(gateways=list(members), committed=committed, lease_s=10.0)
