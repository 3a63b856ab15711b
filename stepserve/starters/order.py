"""What a gateway on another machine is started with: a dictionary of variables, made from the server's own settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stepserve.setting_sources import PREFIX
from stepserve.settings import Settings

# Of the server's settings, those by which an engine computes and a gateway takes requests. Paths, addresses, keys and
# certificates are each machine's own.
SENT = (
    "engine", "load_in_4bit", "load_in_8bit", "flash_attention", "max_loaded_models", "model_load_cooldown_s",
    "max_request_bytes", "max_held_requests", "hold_timeout_s", "drain_timeout_s", "hang_timeout_s", "keep_alive_s",
    "engine_restart_max_delay_s", "self_check_interval_s", "log_level",
)  # fmt: skip
BASE_VARIABLE = f"{PREFIX}BASE_DIR"


@dataclass(frozen=True, slots=True)
class Order:
    """One gateway. `variables`: its settings. `base_dir`: of the server; `first_port`: None: any that is free.

    It is pickled and sent, with the key of the fleet in it.
    """

    id: str
    variables: Mapping[str, str] = field(repr=False)
    base_dir: str
    first_port: int | None

    def environment(self, machine: Mapping[str, str], host: str, port: int) -> dict[str, str]:
        """For the gateway's process on a machine whose own variables are `machine`: these settings have the last word,
        but for where that machine keeps things.
        """
        base = Path(machine.get(BASE_VARIABLE) or self.base_dir) / "replicas" / self.id
        place = {BASE_VARIABLE: str(base), f"{PREFIX}HOST": host, f"{PREFIX}PORT": str(port)}
        return {**machine, **self.variables, **place}


def order_of(settings: Settings, member_id: str, control: str, key: str | None) -> Order:
    """`control`: the server's URL, as other machines reach it. `key`: of the scope fleet, where one is demanded."""
    given = settings.model_dump(mode="json", include=set(SENT), exclude_unset=True)
    fleet = settings.fleet
    own: dict[str, object | None] = {
        **given,
        "ui": False,
        "fleet__control": control,
        "fleet__id": member_id,
        "fleet__api_key": key,
        "fleet__zone": fleet.zone or None,
        "fleet__labels": fleet.labels or None,
        "fleet__ca_file": fleet.ca_file,
        "access__mode": settings.access.mode if settings.access.mode != "auto" else None,
    }
    variables = {f"{PREFIX}{name.upper()}": _text(value) for name, value in own.items() if value is not None}
    return Order(member_id, variables, str(settings.base_dir), settings.replicas.first_port)


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list | bool) else str(value)
