"""What models need on devices, and which devices they go on: pure arithmetic, in bytes; nothing is asked of a machine.

An engine needs, on each of its devices, its share of the weights, KV cache for its longest answer or for many of usual
length, room for what a step computes, and what the driver and the compiled graphs take. The first two are what the
checkpoint says; the rest are bounds that no card has shown yet, so a plan is an estimate on the safe side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

USABLE = 0.94  # of a device: the rest is the driver's, and fragments
STEP_TOKENS = 8192  # the most that a step computes of prompts
USUAL_TOKENS = 1024  # of a request, prompt and answer together
_ENGINE_BYTES = 1_000_000_000  # context, graphs, and what libraries keep
_RANKS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model its needs follow from. `weights_bytes`: as they are loaded."""

    name: str
    weights_bytes: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_tokens: int

    @classmethod
    def of(cls, name: str, config: dict[str, Any], weights_bytes: int) -> "Shape":
        """By a config.json. Raises ValueError naming a key that it lacks."""
        inner = config.get("text_config") or config
        try:
            hidden, heads = int(inner["hidden_size"]), int(inner["num_attention_heads"])
            return cls(
                name=name,
                weights_bytes=weights_bytes,
                layers=int(inner["num_hidden_layers"]),
                hidden=hidden,
                intermediate=int(inner.get("intermediate_size") or 4 * hidden),
                heads=heads,
                kv_heads=int(inner.get("num_key_value_heads") or heads),
                head_dim=int(inner.get("head_dim") or hidden // heads),
                vocabulary=int(inner["vocab_size"]),
                max_tokens=int(inner.get("max_position_embeddings") or 4096),
            )
        except KeyError as error:
            raise ValueError(f"config.json of {name} has no {error.args[0]}") from error


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine is to hold: so many sequences at once, none longer than `max_tokens` (None: the model's own)."""

    sequences: int = 32
    max_tokens: int | None = None
    kv_bits: int = 16


@dataclass(frozen=True, slots=True)
class Device:
    """`kind`: ranks of a model are on devices of one kind."""

    name: str
    free_bytes: int
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Need:
    """Of one rank, on its device."""

    weights_bytes: int
    kv_cache_bytes: int
    step_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.step_bytes + _ENGINE_BYTES


@dataclass(frozen=True, slots=True)
class Placed:
    """`devices` is empty where there is no place, and `reason` says why then."""

    name: str
    devices: tuple[str, ...] = ()
    need: Need | None = None
    reason: str | None = None


def need_of(shape: Shape, load: Load, ranks: int) -> Need:
    """Of each rank. Weights are shared out evenly; a KV head is on one rank, or on several if there are more ranks."""
    longest = min(load.max_tokens or shape.max_tokens, shape.max_tokens)
    tokens = max(longest, load.sequences * min(USUAL_TOKENS, longest))
    kv_heads = math.ceil(shape.kv_heads / ranks)
    kv_bits = 2 * shape.layers * kv_heads * shape.head_dim * load.kv_bits
    step = STEP_TOKENS * (2 * shape.hidden + 3 * shape.intermediate // ranks) * 2
    logits = load.sequences * shape.vocabulary * 4 * 3
    return Need(math.ceil(shape.weights_bytes / ranks), math.ceil(tokens * kv_bits / 8), step + logits)


def place(models: Sequence[tuple[Shape, Load]], devices: Sequence[Device]) -> list[Placed]:
    """Where each model goes, in the order given; the largest choose first. Each takes as few devices as hold it, and of
    those the fullest on which it fits, so that small models share one and a large one finds others empty.
    """
    left = [replace(device, free_bytes=int(device.free_bytes * USABLE)) for device in devices]
    order = sorted(range(len(models)), key=lambda number: models[number][0].weights_bytes, reverse=True)
    placed: dict[int, Placed] = {}
    for number in order:
        shape, load = models[number]
        placed[number] = _place(shape, load, left)
        need = placed[number].need
        if need is not None:
            left = [
                replace(each, free_bytes=each.free_bytes - need.total_bytes)
                if each.name in placed[number].devices
                else each
                for each in left
            ]
    return [placed[number] for number in range(len(models))]


def _place(shape: Shape, load: Load, left: Sequence[Device]) -> Placed:
    closest: Need | None = None
    for ranks in _RANKS:
        if shape.heads % ranks or ranks > len(left):
            continue
        need = need_of(shape, load, ranks)
        closest = need
        for kind in sorted({device.kind for device in left}):
            fitting = [each for each in left if each.kind == kind and each.free_bytes >= need.total_bytes]
            if len(fitting) >= ranks:
                fullest = sorted(fitting, key=lambda device: device.free_bytes)[:ranks]
                return Placed(shape.name, tuple(sorted(device.name for device in fullest)), need)
    if closest is None:
        return Placed(shape.name, reason="there is no device")
    free = max(device.free_bytes for device in left)
    return Placed(
        shape.name,
        reason=f"needs {closest.total_bytes / 1e9:.1f} GB on each of the devices that could share it, and the emptiest"
        f" has {free / 1e9:.1f} GB left",
    )
