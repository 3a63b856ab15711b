"""`stepserve gpu`: the cards."""

from typing import Any

from stepserve.client.terminal import AsJson, Host, print_json, server_at, table


def gpu(host: Host = None, as_json: AsJson = False) -> None:
    """The GPUs of the server: memory, load, temperature, power."""
    with server_at(host) as server:
        seen = server.gpu_stats()
    if as_json:
        print_json(seen)
        return
    cards = seen.gpus or [seen.as_json()]
    table("", ["card", "memory", "load", "temperature", "power", "fan"], [_row(card) for card in cards])


def _row(card: dict[str, Any]) -> list[str]:
    memory = f"{_of(card, 'memory_used_mb', '')} / {_of(card, 'memory_total_mb', ' MB')}"
    power = f"{_of(card, 'power_draw_w', '')} / {_of(card, 'power_limit_w', ' W')}"
    return [
        str(card.get("name", "?")),
        memory,
        _of(card, "utilization_gpu", " %"),
        _of(card, "temperature_gpu", " °C"),
        power,
        _of(card, "fan_speed_pct", " %"),
    ]


def _of(card: dict[str, Any], name: str, unit: str) -> str:
    value = card.get(name)
    return "-" if value is None else f"{value:.0f}{unit}"
