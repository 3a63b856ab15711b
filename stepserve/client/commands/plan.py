"""`stepserve plan`: which models would go on which devices."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from stepserve.client.terminal import (
    EXIT_FAILED,
    EXIT_REFUSED,
    AsJson,
    bytes_in_words,
    print_json,
    stop,
    stop_without_server,
    table,
)
from stepserve.placement import Device, Load, Placed, Shape, place

_DEVICES = re.compile(r"(?:(?P<count>\d+)x)?(?P<size>\d+(?:\.\d+)?)(?:GB)?", re.IGNORECASE)
_GB = 1_000_000_000


def plan(
    folders: Annotated[list[Path], typer.Argument(help="Checkpoints: folders with config.json and *.safetensors.")],
    devices: Annotated[
        str | None, typer.Option(help="Such as 2x24GB or 8x80; without it this machine's cards, or its memory.")
    ] = None,
    bits: Annotated[
        float | None, typer.Option(min=1, max=32, help="Load the weights with so many bits instead of 16.")
    ] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 32,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest context (default: the model's).")] = None,
    kv_bits: Annotated[int, typer.Option(min=4, max=16, help="Of a number in the KV cache.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Say what models need and which devices they would go on. Nothing is loaded; an estimate on the safe side."""
    load = Load(sequences, max_tokens, kv_bits)
    placed = place([(_shape(folder, bits), load) for folder in folders], _devices(devices))
    if as_json:
        print_json([_as_json(each) for each in placed])
    else:
        table("", ["model", "devices", "weights", "KV cache", "step", "on each"], [_row(each) for each in placed])
        for each in placed:
            if each.reason is not None:
                print(f"{each.name}: {each.reason}.")
    if any(each.reason is not None for each in placed):
        raise typer.Exit(EXIT_FAILED)


def _shape(folder: Path, bits: float | None) -> Shape:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        weights_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        if bits is not None:
            weights_bytes = int(weights_bytes * bits / 16)
        return Shape.of(folder.resolve().name, config, weights_bytes)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        stop(f"{folder} cannot be planned: {error}.", EXIT_REFUSED)


def _devices(wanted: str | None) -> list[Device]:
    if wanted is None:
        return _here()
    found = _DEVICES.fullmatch(wanted.strip())
    if found is None:
        raise typer.BadParameter(f"{wanted!r} is not such as 2x24GB", param_hint="--devices")
    size = int(float(found["size"]) * _GB)
    return [Device(str(number), size) for number in range(int(found["count"] or 1))]


def _here() -> list[Device]:
    try:
        from stepserve.devices import devices_here
    except ModuleNotFoundError as error:
        stop_without_server(error)
    return devices_here()


def _row(placed: Placed) -> list[str]:
    need = placed.need
    if need is None:
        return [placed.name, "none", "", "", "", ""]
    sizes = (need.weights_bytes, need.kv_cache_bytes, need.step_bytes, need.total_bytes)
    return [placed.name, ", ".join(placed.devices), *(bytes_in_words(size) for size in sizes)]


def _as_json(placed: Placed) -> dict[str, object]:
    need = placed.need
    return {
        "model": placed.name,
        "devices": list(placed.devices),
        "reason": placed.reason,
        "weights_bytes": need.weights_bytes if need else None,
        "kv_cache_bytes": need.kv_cache_bytes if need else None,
        "total_bytes": need.total_bytes if need else None,
    }
