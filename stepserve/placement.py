"""What models need on devices, and which devices they go on: pure arithmetic, in bytes; nothing is asked of a machine.

An engine needs, on each of its devices, its share of the weights, KV cache for its longest answer or for many of usual
length, room for what a step computes, and what the driver and the compiled graphs take. The first two are what the
checkpoint says; the rest are bounds that no card has shown yet, so a plan is an estimate on the safe side.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

USABLE = 0.94  # of a device: the rest is the driver's, and fragments
STEP_TOKENS = 8192  # the most that a step computes of prompts
USUAL_TOKENS = 1024  # of a request, prompt and answer together
_SPARE_TOKENS = 512  # of the longest answer's cache: blocks are rounded up, and one is never used
_ENGINE_BYTES = 1_000_000_000  # context, graphs, and what libraries keep
_MEDIA_BYTES = 2_000_000_000  # what an encoder of pictures or sound takes for the largest that it is given
_RANKS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model its needs follow from. `weights_bytes`: as they are loaded. `media`: pictures or sound."""

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
    media: bool = False

    @classmethod
    def of(cls, name: str, config: dict[str, Any], weights_bytes: int) -> "Shape":
        """By a config.json. Raises ValueError naming a key that it lacks."""
        inner = config.get("text_config") or config
        try:
            hidden, heads = int(inner["hidden_size"]), int(inner["num_attention_heads"])
            kv_heads, head_dim = _cache_heads(inner, hidden, heads)
            return cls(
                name=name,
                weights_bytes=weights_bytes,
                layers=int(inner["num_hidden_layers"]),
                hidden=hidden,
                intermediate=int(inner.get("intermediate_size") or 4 * hidden),
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                vocabulary=int(inner["vocab_size"]),
                max_tokens=int(inner.get("max_position_embeddings") or 4096),
                media="vision_config" in config or "audio_config" in config,
            )
        except KeyError as error:
            raise ValueError(f"config.json of {name} has no {error.args[0]}") from error


def _cache_heads(config: dict[str, Any], hidden: int, heads: int) -> tuple[int, int]:
    """How many KV heads there are and how wide. One with MLA keeps a single vector of a token, which is not doubled."""
    if rank := config.get("kv_lora_rank"):
        return 1, math.ceil((int(rank) + int(config.get("qk_rope_head_dim") or 0)) / 2)
    return int(config.get("num_key_value_heads") or heads), int(config.get("head_dim") or hidden // heads)


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine is to hold: so many sequences at once, none longer than `max_tokens` (None: the model's own).

    `ranks`: over so many devices; None: over as few as hold it. `devices`: on none but these, by name or id. `adapters`
    of `adapter_rank` at once. What somebody has said counts and not what would be estimated: `kv_cache_bytes` of each
    rank; `share`: all that the engine takes of each device. `nodes`: `ranks` are those of one of so many machines.
    """

    sequences: int = 32
    max_tokens: int | None = None
    kv_bits: int = 16
    ranks: int | None = None
    nodes: int = 1
    devices: tuple[str, ...] | None = None
    kv_cache_bytes: int | None = None
    share: float | None = None
    adapters: int = 0
    adapter_rank: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """`kind`: ranks of a model are on devices of one kind. `uuid`: what CUDA calls it, where that is another name.

    `total_bytes`: 0 means what is free.
    """

    name: str
    free_bytes: int
    kind: str = ""
    uuid: str = ""
    total_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        return self.total_bytes or self.free_bytes

    def is_called(self, name: str) -> bool:
        """By its name, or by its id or the beginning of that."""
        return name == self.name or (not name.isdigit() and self.uuid.startswith(name))


@dataclass(frozen=True, slots=True)
class Need:
    """Of one rank, on its device. With `least_kv_cache_bytes`, for its longest answer alone, it still runs."""

    weights_bytes: int
    kv_cache_bytes: int
    step_bytes: int
    least_kv_cache_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.step_bytes + _ENGINE_BYTES

    @property
    def least_bytes(self) -> int:
        return self.total_bytes - self.kv_cache_bytes + self.least_kv_cache_bytes


@dataclass(frozen=True, slots=True)
class Placed:
    """`devices` is empty where there is no place, and `reason` says why then. `need` is None as well where the engine
    takes a share of its devices. `bytes_each`: what it takes of every device.
    """

    name: str
    devices: tuple[str, ...] = ()
    need: Need | None = None
    reason: str | None = None
    bytes_each: int = 0


def need_of(shape: Shape, load: Load, ranks: int) -> Need:
    """Of each of the `ranks` of a node. Weights are shared out evenly; a KV head is on one rank, or on several."""
    ranks *= load.nodes
    longest = min(load.max_tokens or shape.max_tokens, shape.max_tokens)
    kv_heads = math.ceil(shape.kv_heads / ranks)
    kv_bits = 2 * shape.layers * kv_heads * shape.head_dim * load.kv_bits
    least = math.ceil((longest + _SPARE_TOKENS) * kv_bits / 8)
    usual = math.ceil(load.sequences * min(USUAL_TOKENS, longest) * kv_bits / 8)
    wanted = max(least, usual)
    if load.kv_cache_bytes is not None:
        least = wanted = load.kv_cache_bytes
    step = STEP_TOKENS * (2 * shape.hidden + 3 * shape.intermediate // ranks) * 2
    logits = load.sequences * shape.vocabulary * 4 * 3
    media = _MEDIA_BYTES if shape.media else 0
    adapters = math.ceil(load.adapters * _adapter_bytes(shape, load.adapter_rank) / ranks)
    return Need(math.ceil(shape.weights_bytes / ranks) + adapters, wanted, step + logits + media, least)


def _adapter_bytes(shape: Shape, rank: int) -> int:
    """Of one adapter with 16 bits a number: both matrices beside every one of attention and MLP."""
    attention = 4 * shape.hidden + 2 * shape.heads * shape.head_dim + 2 * shape.kv_heads * shape.head_dim
    return shape.layers * rank * (attention + 3 * (shape.hidden + shape.intermediate)) * 2


def place(models: Sequence[tuple[Shape, Load]], devices: Sequence[Device]) -> list[Placed]:
    """Where each model goes, in the order given; the largest choose first. Each takes as few devices as hold it with
    all of its KV cache, and of those the fullest on which it fits, so that small models share one and a large one finds
    others empty.
    """
    left = _usable(devices)
    order = sorted(range(len(models)), key=lambda number: models[number][0].weights_bytes, reverse=True)
    placed: dict[int, Placed] = {}
    for number in order:
        shape, load = models[number]
        placed[number] = _place(shape.name, shape, load, left, least=False)
        left = _without(placed[number], left)
    return [placed[number] for number in range(len(models))]


def place_next(name: str, shape: Shape | None, load: Load, devices: Sequence[Device]) -> Placed:
    """Where one more model goes, and what it gets: at least the KV cache of its longest answer, at most that of all its
    sequences. In between, it leaves room for one more engine like it, which a switch without a pause needs, unless
    other devices have that room or these could not have it anyway.

    `shape` may be None for a load that names its share.
    """
    left = _usable(devices)
    placed = _place(name, shape, load, left, least=True)
    if placed.need is None or shape is None:
        return placed
    need, total = placed.need, placed.need.least_bytes
    room = min(device.free_bytes for device in left if device.name in placed.devices) - total
    others = [device for device in left if device.name not in placed.devices]
    has_twin_elsewhere = bool(_place(name, shape, load, others, least=True).devices)
    more = room if has_twin_elsewhere or room < total else room - total
    kv_cache_bytes = min(need.kv_cache_bytes, need.least_kv_cache_bytes + more)
    need = replace(need, kv_cache_bytes=kv_cache_bytes)
    return replace(placed, need=need, bytes_each=need.total_bytes)


def how_many(shape: Shape | None, load: Load, devices: Sequence[Device], most: int = 64) -> int:
    """How many engines like that fit, each with the KV cache of its longest answer."""
    left = _usable(devices)
    for number in range(most):
        placed = _place("", shape, load, left, least=True)
        if not placed.devices:
            return number
        left = _without(placed, left)
    return most


def _usable(devices: Sequence[Device]) -> list[Device]:
    """With what is free but for the part of each that nobody may plan with."""
    return [
        replace(
            device, free_bytes=device.free_bytes - int((1 - USABLE) * device.size_bytes), total_bytes=device.size_bytes
        )
        for device in devices
    ]


def _without(placed: Placed, left: Sequence[Device]) -> list[Device]:
    return [
        replace(each, free_bytes=each.free_bytes - placed.bytes_each) if each.name in placed.devices else each
        for each in left
    ]


def _place(name: str, shape: Shape | None, load: Load, left: Sequence[Device], *, least: bool) -> Placed:
    if load.devices is not None:
        left, unknown = _named(load.devices, left)
        if unknown is not None:
            return Placed(name, reason=unknown)
    if not left:
        return Placed(name, reason="there is no device")
    closest = 0
    for ranks in (load.ranks,) if load.ranks is not None else _RANKS:
        if ranks > len(left) or (load.ranks is None and shape is not None and shape.heads % ranks):
            continue
        need = need_of(shape, load, ranks) if shape is not None and load.share is None else None
        taken = {device.name: _taken(need, load, device, least=least) for device in left}
        closest = max(taken.values())
        spare = 0 if need is not None else 1 - USABLE  # a share is of all, the part that is not planned with included
        for kind in sorted({device.kind for device in left}):
            fitting = [
                each
                for each in left
                if each.kind == kind and each.free_bytes + int(spare * each.size_bytes) >= taken[each.name]
            ]
            if len(fitting) >= ranks:
                fullest = sorted(fitting, key=lambda device: device.free_bytes)[:ranks]
                names = tuple(sorted(device.name for device in fullest))
                return Placed(name, names, need, bytes_each=max(taken[each] for each in names))
    if not closest:
        return Placed(name, reason=f"it takes {load.ranks} devices, and it may have {len(left)}")
    free = max(device.free_bytes for device in left)
    return Placed(
        name,
        reason=f"needs {closest / 1e9:.1f} GB on each of the devices that could share it, and the emptiest"
        f" has {max(free, 0) / 1e9:.1f} GB left",
    )


def _taken(need: Need | None, load: Load, device: Device, *, least: bool) -> int:
    if need is None:
        return int((load.share or 1.0) * device.size_bytes)
    return need.least_bytes if least else need.total_bytes


def _named(names: Collection[str], devices: Sequence[Device]) -> tuple[list[Device], str | None]:
    """Those devices, and why there are not all."""
    for name in names:
        if not any(device.is_called(name) for device in devices):
            return (
                [],
                f"there is no device {name} here: {', '.join(device.name for device in devices) or 'there is none'}",
            )
    return [device for device in devices if any(device.is_called(name) for name in names)], None
