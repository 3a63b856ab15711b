"""Whether the model that is to be served fits into what is free, by the planner's estimate."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepserve.base_lock import BaseInUse, hold
from stepserve.database_file import BackupRefused, file_of
from stepserve.devices import devices_here
from stepserve.machine.limits import ranks_of
from stepserve.machine.trouble import Trouble
from stepserve.placement import USABLE, Device, Load, Need, Shape, need_of, place
from stepserve.settings import Settings

_GIB = 1024**3
_WEIGHT_BITS = {"q4": 4, "q8": 8}  # of 16
_ACTIVE = (
    "SELECT models.id, models.path, models.base_model, models.quantize, models.engine"
    " FROM active_model JOIN models ON models.id = active_model.model_id"
)


@dataclass(frozen=True, slots=True)
class _Served:
    name: str
    folder: Path
    quantize: str | None = None
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
        shape = _shape(served)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{served.name} cannot be estimated: {error}"
    found = devices_here()
    if len(found) == 1 and found[0].kind == "cpu":
        return _in_memory(shape, _load(settings, served), settings, found[0])
    return _on_cards(shape, _load(settings, served), _ranks(settings, served), found)


def _in_memory(shape: Shape, load: Load, settings: Settings, memory: Device) -> str:
    """Without a GPU the cache is what the setting says, whatever the model is."""
    need = replace(need_of(shape, load, 1), kv_cache_bytes=settings.engine.cpu_kv_cache_gib * _GIB)
    if need.total_bytes > memory.free_bytes:
        raise Trouble(
            f"{_needs(shape, need)}, and {_gb(memory.free_bytes)} are free: end something else, or lower"
            " INFERENCE_ENGINE__CPU_KV_CACHE_GIB"
        )
    return f"{_needs(shape, need)}; {_gb(memory.free_bytes)} are free"


def _on_cards(shape: Shape, load: Load, ranks: int, cards: list[Device]) -> str:
    if ranks == 1:
        placed = place([(shape, load)], cards[:1])[0]
        if placed.need is not None:
            return f"{_needs(shape, placed.need)}; {_gb(cards[0].free_bytes)} are free on card {cards[0].name}"
    need = need_of(shape, load, ranks)
    short = [card for card in cards[:ranks] if card.free_bytes * USABLE < need.total_bytes]
    if short:
        raise Trouble(
            f"{_needs(shape, need)} on each of {ranks} cards, and {_gb(short[0].free_bytes)} are free on"
            f" {short[0].name}: end what is on it, shorten INFERENCE_ENGINE__MAX_MODEL_LEN, or see `stepserve plan`"
        )
    return f"{_needs(shape, need)} on each of {ranks} cards"


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
    wish = "q4" if settings.load_in_4bit else "q8" if settings.load_in_8bit else None
    folder = settings.model_path.expanduser()
    return _Served(folder.name, folder, wish)


def _shape(served: _Served) -> Shape:
    config = json.loads((served.folder / "config.json").read_bytes())
    weights_bytes = sum(file.stat().st_size for file in served.folder.glob("*.safetensors"))
    return Shape.of(served.name, config, weights_bytes * _WEIGHT_BITS.get(served.quantize or "", 16) // 16)


def _load(settings: Settings, served: _Served) -> Load:
    own = served.engine or {}
    sequences = own.get("max_num_seqs") or settings.engine.max_num_seqs
    return Load(int(sequences), own.get("max_model_len") or settings.engine.max_model_len)


def _ranks(settings: Settings, served: _Served) -> int:
    own = (served.engine or {}).get("args") or {}
    return ranks_of({**settings.engine.args, **own})


def _needs(shape: Shape, need: Need) -> str:
    return (
        f"{shape.name} needs about {_gb(need.total_bytes)} (weights {_gb(need.weights_bytes)},"
        f" KV cache {_gb(need.kv_cache_bytes)})"
    )


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
