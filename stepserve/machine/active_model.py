"""Whether the model that is to be served fits into what is free, by the planner's estimate."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepserve.base_lock import BaseInUse, hold
from stepserve.contract import EngineOverrides, Quantize
from stepserve.database_file import BackupRefused, file_of
from stepserve.devices import devices_here
from stepserve.engine_load import load_of, shape_of, unforeseen
from stepserve.machine.trouble import Trouble
from stepserve.placement import Device, Load, Need, Shape, need_of, place_next
from stepserve.settings import EngineSettings, Settings

_GIB = 1024**3
_ACTIVE = (
    "SELECT models.id, models.path, models.base_model, models.quantize, models.engine"
    " FROM active_model JOIN models ON models.id = active_model.model_id"
)


@dataclass(frozen=True, slots=True)
class _Served:
    name: str
    folder: Path
    quantize: Quantize | None = None
    engine: dict[str, Any] | None = None


def fit(settings: Settings) -> str:
    """Raises Trouble where the active model needs more than is free. What cannot be estimated is no trouble."""
    try:
        with hold(settings.layout):
            pass
    except BaseInUse:
        return "a server runs here: stepserve status says what it has loaded"
    except OSError:
        pass  # said by the check of the base directory
    served = _served(settings)
    if served is None:
        return "no model is active yet"
    try:
        own = EngineOverrides.model_validate(served.engine) if served.engine else None
        engine = settings.engine.with_overrides(own)
        shape = shape_of(served.name, served.folder, engine, served.quantize)
    except (OSError, ValueError) as error:
        return f"{served.name} cannot be estimated: {error}"
    load = load_of(engine, own.devices if own is not None else None)
    found = devices_here()
    if len(found) == 1 and found[0].kind == "cpu":
        return _in_memory(shape, load, engine, found[0])
    if (argument := unforeseen(engine.args)) is not None:
        return f"{served.name} cannot be estimated: engine.args.{argument} makes it take more or less"
    return _on_cards(shape, load, found)


def _in_memory(shape: Shape, load: Load, engine: EngineSettings, memory: Device) -> str:
    """Without a GPU the cache is what the setting says, whatever the model is."""
    cache_bytes = load.kv_cache_bytes or engine.cpu_kv_cache_gib * _GIB
    need = replace(need_of(shape, load, 1), kv_cache_bytes=cache_bytes)
    if need.total_bytes > memory.free_bytes:
        raise Trouble(
            f"{_needs(shape, need)}, and {_gb(memory.free_bytes)} are free: end something else, or lower"
            " INFERENCE_ENGINE__CPU_KV_CACHE_GIB"
        )
    return f"{_needs(shape, need)}; {_gb(memory.free_bytes)} are free"


def _on_cards(shape: Shape, load: Load, cards: list[Device]) -> str:
    """As the gateway places it at its start."""
    placed = place_next(shape.name, shape, load, cards)
    if not placed.devices:
        raise Trouble(
            f"{shape.name} {placed.reason}: end what is on the cards, shorten INFERENCE_ENGINE__MAX_MODEL_LEN, or see"
            " `stepserve plan`"
        )
    where = f"card {placed.devices[0]}" if len(placed.devices) == 1 else f"each of cards {', '.join(placed.devices)}"
    if placed.need is None:
        return f"{shape.name} takes {_gb(placed.bytes_each)} of {where} (gpu_memory_utilization)"
    return f"{_needs(shape, placed.need)} on {where}"


def _served(settings: Settings) -> _Served | None:
    """The active model as the database has it; before the first start the one that the settings name."""
    try:
        file = file_of(settings)
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            row = database.execute(_ACTIVE).fetchone()
            if row is not None and row[2] is not None:  # an adapter is in its base's engine
                row = database.execute(
                    "SELECT id, path, base_model, quantize, engine FROM models WHERE id = ?", (row[2],)
                ).fetchone()
    except (BackupRefused, sqlite3.Error):  # PostgreSQL, or none yet; a damaged one has a check of its own
        row = None
    if row is not None:
        return _Served(row[0], Path(row[1]), row[3], json.loads(row[4]) if row[4] else None)
    if settings.model_path is None:
        return None
    wish: Quantize | None = "q4" if settings.load_in_4bit else "q8" if settings.load_in_8bit else None
    folder = settings.model_path.expanduser()
    return _Served(folder.name, folder, wish)


def _needs(shape: Shape, need: Need) -> str:
    return (
        f"{shape.name} needs about {_gb(need.total_bytes)} (weights {_gb(need.weights_bytes)},"
        f" KV cache {_gb(need.kv_cache_bytes)})"
    )


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
