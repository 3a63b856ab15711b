"""Which cards an engine goes on and what it gets of them: the plan of `stepserve.placement`, for this machine now."""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from gateway.errors import EngineArgumentRefused, EngineStartFailed
from gateway.serving.card_view import RENEWED_EVERY_S, CardView
from gateway.serving.slot import Engine, Slot, StartEngine, StartPlaced
from stepserve.contract import EngineOverrides, ModelRef, Placement
from stepserve.engine_load import SHARE, load_of, shape_of, unforeseen
from stepserve.placement import Device, Load, Placed, Shape, how_many, place_next
from stepserve.settings import EngineSettings

_SETTLES_WITHIN_S = 5.0
_POLL_S = 0.2
_ESTIMATES_REMEMBERED = 256

_Estimate = tuple[Shape | None, str | None]  # or why there is none


@dataclass(frozen=True, slots=True)
class _Asked:
    """`shape` is None where the model cannot be estimated, or nobody needs that. `why`: it takes a share therefore."""

    model: ModelRef
    shape: Shape | None
    load: Load
    why: str | None = None

    def among(self, devices: Sequence[Device]) -> Placed:
        return place_next(self.model.id, self.shape, self.load, devices)


class Cards:
    """Implements Memory. `read` asks NVML for the cards that this gateway may use, and blocks.

    What its own engines hold is counted from before they start until they have ended and the driver shows that: free
    is what both the driver and this count say is free. Where NVML finds no card nothing is planned, and vLLM takes what
    it takes.
    """

    def __init__(
        self,
        settings: EngineSettings,
        read: Callable[[], Sequence[Device]],
        *,
        settles_within_s: float = _SETTLES_WITHIN_S,
        poll_s: float = _POLL_S,
        renewed_every_s: float = RENEWED_EVERY_S,
    ) -> None:
        self._settings = settings
        self._view = CardView(read, renewed_every_s)
        self._settles_within_s = settles_within_s
        self._poll_s = poll_s
        self._held: dict[int, Placement] = {}
        self._estimates: dict[tuple[str, str, str], _Estimate] = {}

    def shortage(self, model: ModelRef, gone: Collection[Slot] = ()) -> str | None:
        cards = self._view.cards
        if not cards:
            return None
        reason = self._asked(model, cards).among(self._left(cards, _placements(gone))).reason
        return f"a second engine {reason}" if reason is not None and reason.startswith("needs") else reason

    def leavers(self, model: ModelRef, slots: Sequence[Slot], gone: Collection[Slot] = ()) -> list[Slot] | None:
        """As few as possible: all that are before a slot on other cards stay."""
        cards = self._view.cards
        if not cards:
            return []
        asked, already = self._asked(model, cards), _placements(gone)

        def fits(leaving: Sequence[Slot]) -> bool:
            return bool(asked.among(self._left(cards, [*already, *_placements(leaving)])).devices)

        enough = next((number for number in range(len(slots) + 1) if fits(slots[:number])), None)
        if enough is None:
            return None
        leaving = list(slots[:enough])
        for slot in reversed(slots[:enough]):
            without = [each for each in leaving if each is not slot]
            if fits(without):
                leaving = without
        return leaving

    def more(self, model: ModelRef) -> int:
        cards = self._view.cards
        if not cards:
            return 0
        asked = self._asked(model, cards)
        return how_many(asked.shape, asked.load, self._left(cards))

    async def watch(self) -> None:
        await self._view.run()

    async def study(self, model: ModelRef) -> None:
        settings = self._settings.with_overrides(model.engine)
        if self._view.cards and _key(model, settings) not in self._estimates:
            self._note(model, settings, await asyncio.to_thread(_estimated, model, settings))

    def starts(self, start_engine: StartPlaced) -> StartEngine:
        """Engines by `start_engine`, on cards that have room for them. Raises EngineStartFailed where none have."""

        async def start(model: ModelRef) -> Engine:
            placement = await self._place(model)
            if placement is None:
                return await start_engine(model, None)
            self._held[id(placement)] = placement
            try:
                engine = await start_engine(model, placement)
            except BaseException:
                del self._held[id(placement)]
                raise
            return cast("Engine", _PlacedEngine(engine, placement, self))

        return start

    async def ended(self, placement: Placement) -> None:
        """An engine has: what it held is free once the driver shows no more coming back."""
        try:
            await self._settled(placement)
        finally:
            self._held.pop(id(placement), None)

    async def _settled(self, placement: Placement) -> None:
        deadline_s = time.monotonic() + self._settles_within_s
        before = await self._free_bytes(placement)
        while time.monotonic() < deadline_s:
            await asyncio.sleep(self._poll_s)
            after = await self._free_bytes(placement)
            if after <= before:
                return
            before = after

    async def _free_bytes(self, placement: Placement) -> int:
        cards = await self._view.renew()
        return sum(card.free_bytes for card in cards if _id(card) in placement.devices)

    async def _place(self, model: ModelRef) -> Placement | None:
        """None: no card was found. Waits, bounded, where only the driver says that there is no room."""
        deadline_s = time.monotonic() + self._settles_within_s
        while True:
            cards = await self._view.renew()
            if not cards:
                return None
            await self.study(model)
            asked = self._asked(model, cards)
            placed = asked.among(self._left(cards))
            if placed.devices:
                return self._placement(asked, placed, cards)
            counted = [replace(card, free_bytes=card.total_bytes) for card in cards]
            if time.monotonic() >= deadline_s or not asked.among(self._left(counted)).devices:
                raise EngineStartFailed(f"`{model.id}` has no place: {placed.reason}")
            await asyncio.sleep(self._poll_s)

    def _placement(self, asked: _Asked, placed: Placed, cards: Sequence[Device]) -> Placement:
        chosen = [card for card in cards if card.name in placed.devices]
        largest = max(card.size_bytes for card in chosen)
        settings = self._settings.with_overrides(asked.model.engine)
        share = settings.gpu_memory_utilization or asked.load.share
        return Placement(
            devices=[_id(card) for card in chosen],
            bytes_each=placed.bytes_each,
            kv_cache_bytes=placed.need.kv_cache_bytes if placed.need is not None else None,
            # vLLM refuses to start where less than this is free, whatever its cache is to have.
            share=share or max(0.0001, math.floor(placed.bytes_each / largest * 10_000) / 10_000),
            by="kv_cache_memory_bytes" if asked.load.kv_cache_bytes else "gpu_memory_utilization" if share else "plan",
            why=asked.why,
        )

    def _left(self, cards: Sequence[Device], gone: Sequence[Placement] = ()) -> list[Device]:
        """The cards with what is free, or would be if those that are `gone` were."""
        held = list(self._held.values())
        ended = [each for each in gone if id(each) in self._held]

        def free_bytes(card: Device) -> int:
            mine, back = (sum(each.bytes_each for each in of if _id(card) in each.devices) for of in (held, ended))
            return max(0, min(card.free_bytes + back, card.size_bytes - mine + back))

        return [replace(card, free_bytes=free_bytes(card), total_bytes=card.size_bytes) for card in cards]

    def _asked(self, model: ModelRef, cards: Sequence[Device]) -> _Asked:
        """On as many cards as it takes where no other engine is. One that would not fit there either, by an estimate,
        gets vLLM's share of a card where that is free, and vLLM says what is wrong.
        """
        settings = self._settings.with_overrides(model.engine)
        load = load_of(settings, model.engine.devices if model.engine is not None else None)
        if load.share is not None:
            return _Asked(model, None, load)
        shape, why = self._estimate(model, settings)
        if shape is None:
            return _Asked(model, None, replace(load, share=SHARE), why)
        asked = _Asked(model, shape, load)
        empty = self._left(cards, list(self._held.values()))
        alone = asked.among(empty)
        if alone.devices:
            return replace(asked, load=replace(load, ranks=len(alone.devices)))
        tried = _Asked(model, None, replace(load, share=SHARE), f"by the plan it {alone.reason}")
        return tried if load.kv_cache_bytes is None and tried.among(empty).devices else asked

    def _estimate(self, model: ModelRef, settings: EngineSettings) -> _Estimate:
        if (known := self._estimates.get(_key(model, settings))) is not None:
            return known
        return self._note(model, settings, _estimated(model, settings))

    def _note(self, model: ModelRef, settings: EngineSettings, estimate: _Estimate) -> _Estimate:
        if len(self._estimates) >= _ESTIMATES_REMEMBERED:
            self._estimates.clear()
        self._estimates[_key(model, settings)] = estimate
        return estimate


def _key(model: ModelRef, settings: EngineSettings) -> tuple[str, str, str]:
    return model.path, model.digest, settings.model_dump_json()


def _estimated(model: ModelRef, settings: EngineSettings) -> _Estimate:
    """The shape, or why there is none."""
    if (argument := unforeseen(settings.args)) is not None:
        return None, f"engine.args.{argument} makes it take more or less than can be planned"
    weights_bytes = model.signature.weights_bytes if model.signature is not None else None
    try:
        return shape_of(model.id, Path(model.path), settings, model.quantize, weights_bytes), None
    except (OSError, ValueError) as error:
        return None, str(error)


class _PlacedEngine:
    """An engine, and what it holds until it has ended."""

    def __init__(self, engine: Engine, placement: Placement, cards: Cards) -> None:
        self._engine = engine
        self._cards = cards
        self.placement = placement

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def shutdown(self) -> None:
        try:
            await self._engine.shutdown()
        finally:
            await self._cards.ended(self.placement)


def check_devices(engine: EngineOverrides, settings: EngineSettings, cards: Sequence[Device]) -> None:
    """Whether a model can be bound to the devices that its `engine` names. Raises EngineArgumentRefused."""
    if engine.devices is None:
        return
    if not cards:
        raise EngineArgumentRefused("engine.devices: no card was found on this machine")
    chosen = []
    for name in engine.devices:
        card = next((each for each in cards if each.is_called(name)), None)
        if card is None:
            there = ", ".join(each.name for each in cards)
            raise EngineArgumentRefused(f"engine.devices: there is no card {name} here, but {there}")
        chosen.append(card.name)
    ranks = load_of(settings.with_overrides(engine)).ranks or 1
    if ranks > len(set(chosen)):
        raise EngineArgumentRefused(
            f"engine.devices names {len(set(chosen))} cards and engine.args makes the model take {ranks}"
        )


def _placements(slots: Collection[Slot]) -> list[Placement]:
    return [placement for slot in slots if (placement := slot.engine.placement) is not None]


def _id(card: Device) -> str:
    return card.uuid or card.name
