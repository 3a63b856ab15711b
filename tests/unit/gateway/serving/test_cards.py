"""Engines on cards: the real pool and the real plan over a played machine whose driver counts what engines take."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import EngineArgumentRefused, EngineStartFailed, LoadFailed, MethodImpossible, NoRoom
from gateway.serving.cards import Cards, check_devices
from gateway.serving.memory import Memory
from gateway.serving.slot import Slot, StartEngine
from stepserve.contract import ActivateRequest, ActivateResult, EngineOverrides, ModelRef, Placement
from stepserve.placement import Device
from stepserve.settings import EngineSettings
from tests.eventually import eventually
from tests.unit.gateway.fakes import FakeClient, FakeEngine, FakeStarter, model, signature
from tests.unit.gateway.pool_harness import PoolHarness, scenario

GB = 1_000_000_000
CONFIG = {
    "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 28,
    "intermediate_size": 3072, "vocab_size": 32_000, "max_position_embeddings": 4096, "dtype": "bfloat16",
}  # fmt: skip
SETTINGS = EngineSettings(max_num_seqs=32)


class Driver:
    """What it shows as used is what engines were given; `late_bytes` are those of ended ones that it shows still."""

    def __init__(self, *sizes_gb: int) -> None:
        self.sizes_gb = sizes_gb
        self.placements: list[Placement] = []
        self.late_bytes = 0
        self.readings = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def read(self) -> list[Device]:
        self.readings += 1
        assert self.may_answer.wait(240), "whoever waits for the driver holds up what would let it answer"
        return [
            Device(str(n), size * GB - self._used(f"GPU-{n}"), "card", f"GPU-{n}", size * GB)
            for n, size in enumerate(self.sizes_gb)
        ]

    def _used(self, uuid: str) -> int:
        return self.late_bytes + sum(each.bytes_each for each in self.placements if uuid in each.devices)


class CardEngine(FakeEngine):
    def __init__(self, ref: ModelRef, placement: Placement, driver: Driver) -> None:
        super().__init__(ref)
        self.given = placement
        self._driver = driver
        driver.placements.append(placement)

    async def shutdown(self) -> None:
        if not self.stopped:
            self._driver.placements.remove(self.given)
        await super().shutdown()


class CardStarter(FakeStarter):
    """As vLLM does, it refuses to start an engine where less is free than its share of the card."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver
        self.unplaced: list[str] = []

    async def start_on(self, ref: ModelRef, placement: Placement | None) -> FakeEngine:
        if placement is None:
            self.unplaced.append(ref.id)
            return await self.start(ref)
        for card in self.driver.read():
            if card.uuid in placement.devices and card.free_bytes < placement.share * card.total_bytes:
                raise EngineStartFailed(f"free memory on {card.name} is less than the share")
        await self.start(ref)
        self.started[-1] = CardEngine(ref, placement, self.driver)
        return self.started[-1]


class AskedCards(Cards):
    """Knows which models there was no room for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.refused: set[str] = set()

    def shortage(self, model: ModelRef, gone: Collection[Slot] = ()) -> str | None:
        reason = super().shortage(model, gone)
        if reason is not None:
            self.refused.add(model.id)
        return reason


class CardPoolHarness(PoolHarness):
    def __init__(self, *sizes_gb: int, settings: EngineSettings = SETTINGS, **others: Any) -> None:
        self.driver = Driver(*sizes_gb)
        self.cards = AskedCards(
            settings,
            self.driver.read,
            settles_within_s=others.pop("settles_within_s", 0.1),
            poll_s=0.001,
            renewed_every_s=others.pop("renewed_every_s", 0.001),
        )
        super().__init__(starter=CardStarter(self.driver), max_loaded=others.pop("max_loaded", None), **others)

    def memory(self) -> Memory:
        return self.cards

    def start_engine(self) -> StartEngine:
        starter = self.starter
        assert isinstance(starter, CardStarter)
        return self.cards.starts(starter.start_on)

    async def activate(self, ref: ModelRef, **options: Any) -> ActivateResult:
        return await self.pool.activate(ActivateRequest(model=ref, **options))

    async def occupied(self, ref: ModelRef) -> Callable[[], Awaitable[None]]:
        """Loads a model and keeps a request inside it until what is returned is called."""
        await self.load(ref)
        slot = self.pool.loaded.other(ref.id)
        assert isinstance(slot, Slot)
        engine = self.starter.started[-1]
        engine.release.clear()
        client = FakeClient(b"")
        answering = asyncio.create_task(slot.serve(client.scope, client.receive, client.send))
        await engine.entered.wait()

        async def end() -> None:
            engine.release.set()
            await answering

        return end

    def where(self) -> dict[str, list[str]]:
        """The cards of each loaded model."""
        return {state.model.id: _placement(state.placement).devices for state in self.pool.snapshot().slots}


def _placement(placement: Placement | None) -> Placement:
    assert placement is not None
    return placement


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., ModelRef]:
    """A model of so many GB of weights; each is of another architecture, so that none goes in another's place."""

    def make(name: str, weights_gb: float, engine: EngineOverrides | None = None) -> ModelRef:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        there = signature(tensors_sha=name, weights_bytes=int(weights_gb * GB))
        return model(name, there).model_copy(update={"path": str(folder), "engine": engine})

    return make


Make = Callable[..., ModelRef]


def run(test: Callable[[CardPoolHarness], Awaitable[None]], *sizes_gb: int, **settings: Any) -> None:
    async def cast(harness: PoolHarness) -> None:
        assert isinstance(harness, CardPoolHarness)
        await test(harness)

    scenario(cast, lambda: CardPoolHarness(*sizes_gb, **settings))()


def test_small_models_share_a_card_and_each_gets_the_cache_that_it_needs(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 1))
        for name in "bc":
            await harness.load(checkpoint(name, 1))
        assert harness.where() == {"a": ["GPU-0"], "b": ["GPU-0"], "c": ["GPU-0"]}
        states = [_placement(state.placement) for state in harness.pool.snapshot().slots]
        assert all(each.kv_cache_bytes and each.by == "plan" for each in states)
        assert sum(each.bytes_each for each in states) <= 24 * GB

    run(test, 24)


def test_without_a_limit_as_many_models_are_loaded_as_memory_holds(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 3))
        while len(harness.where()) < harness.pool.max_loaded:
            await harness.load(checkpoint(f"b{len(harness.where())}", 3))
        count = len(harness.where())
        assert count > 2
        await harness.load(checkpoint("last", 3))
        assert len(harness.where()) == count, "one left for it"

    run(test, 24)


def test_a_switch_between_different_models_needs_no_pause_where_two_fit(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 6))
        assert (await harness.activate(checkpoint("b", 6))).method == "blue_green"
        await eventually(lambda: len(harness.driver.placements) == 1)
        assert (await harness.activate(checkpoint("c", 16))).method == "restart"

    run(test, 24)


def test_the_model_leaves_whose_card_is_needed_and_not_the_one_used_least_recently(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 15, EngineOverrides(max_num_seqs=4)))
        await harness.load(checkpoint("near", 3, EngineOverrides(devices=["0"])))
        await harness.load(checkpoint("far", 3))
        assert harness.where() == {"a": ["GPU-0"], "near": ["GPU-0"], "far": ["GPU-1"]}
        for n, name in enumerate(("near", "far")):
            slot = harness.pool.loaded.other(name)
            assert isinstance(slot, Slot)
            slot.use.last_s = float(n)
        await harness.load(checkpoint("large", 18))
        assert harness.where() == {"a": ["GPU-0"], "near": ["GPU-0"], "large": ["GPU-1"]}

    run(test, 24, 24)


def test_nobody_leaves_for_a_model_that_fits_nowhere_beside_the_active_one(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 12))
        await harness.load(checkpoint("b", 1))
        with pytest.raises(NoRoom, match=r"a second engine needs 1\d\.\d GB on each .* the emptiest has"):
            await harness.load(checkpoint("c", 16))
        assert harness.where() == {"a": ["GPU-0"], "b": ["GPU-0"]}

    run(test, 24)


def test_who_is_kept_is_named_only_where_that_is_in_the_way(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 8))
        await harness.load(checkpoint("pinned", 1))
        await harness.load(checkpoint("other", 1))
        harness.pool.keep_alive("pinned", -1.0)
        with pytest.raises(NoRoom, match=r"pinned is to stay \(keep_alive\)"):
            await harness.load(checkpoint("c", 7))
        with pytest.raises(NoRoom) as refused:
            await harness.load(checkpoint("d", 19))
        assert "pinned" not in str(refused.value)
        assert set(harness.where()) == {"a", "pinned", "other"}

    run(test, 24)


def test_a_model_that_one_card_does_not_hold_spans_two(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 30))
        assert harness.where() == {"a": ["GPU-0", "GPU-1"]}
        await harness.activate(checkpoint("b", 2))
        assert len(harness.where()["b"]) == 1

    run(test, 24, 24)


def test_a_switch_ends_idle_models_that_are_in_the_way(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 6))
        await harness.load(checkpoint("b", 6))
        assert (await harness.activate(checkpoint("c", 18))).method == "restart"
        assert harness.where() == {"c": ["GPU-0"]}

    run(test, 24)


def test_a_switch_that_has_no_room_ends_nothing(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 6))
        end = await harness.occupied(checkpoint("b", 6))
        with pytest.raises(MethodImpossible, match=r"a second engine needs .* when what serves has ended"):
            await harness.activate(checkpoint("c", 18))
        assert set(harness.where()) == {"a", "b"}
        await end()

    run(test, 24)


def test_the_active_model_comes_back_before_idle_ones_stay(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 9, EngineOverrides(max_num_seqs=4)))
        harness.starter.broken.add("a")
        harness.starter.started[0].dead = True
        await eventually(lambda: harness.pool.serving is None and not harness.driver.placements)
        await harness.load(checkpoint("b", 16))
        harness.starter.broken.clear()
        await eventually(lambda: harness.pool.serving is not None)
        assert harness.where() == {"a": ["GPU-0"]}

    run(test, 24)


def test_a_model_that_waits_for_room_does_not_get_that_of_an_active_one_that_died(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        few = EngineOverrides(max_num_seqs=4)
        await harness.activate(checkpoint("a", 9, few))
        end = await harness.occupied(checkpoint("b", 7, few))
        loading = asyncio.create_task(harness.load(checkpoint("c", 7, few)))
        await eventually(lambda: "c" in harness.cards.refused)
        harness.starter.asked.clear()
        harness.starter.started[0].dead = True
        await eventually(lambda: bool(harness.starter.asked))
        await eventually(lambda: harness.pool.serving is not None)
        assert harness.starter.asked == ["a"]
        await end()
        await loading
        assert set(harness.where()) == {"a", "c"}

    run(test, 24)


def test_a_start_waits_until_the_driver_shows_what_has_ended_as_free(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        harness.driver.late_bytes = 10 * GB
        switch = asyncio.create_task(harness.activate(checkpoint("a", 16)))
        seen = harness.driver.readings
        await eventually(lambda: harness.driver.readings > seen + 5)
        assert not harness.starter.started
        harness.driver.late_bytes = 0
        assert (await switch).status == "activated"

    run(test, 24, settles_within_s=240.0, renewed_every_s=3600.0)


def test_a_driver_that_does_not_answer_holds_up_nothing_but_a_start(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 1))
        harness.driver.may_answer.clear()
        read = harness.driver.readings
        await eventually(lambda: harness.driver.readings > read)
        assert harness.pool.max_loaded > 1
        served = await harness.enter("active")
        assert served.model.id == "a"
        loading = asyncio.create_task(harness.load(checkpoint("b", 1)))
        harness.driver.may_answer.set()
        await loading
        assert harness.where() == {"a": ["GPU-0"], "b": ["GPU-0"]}

    run(test, 24)


def test_what_another_program_holds_is_not_free(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        harness.driver.late_bytes = 10 * GB
        result = await harness.activate(checkpoint("a", 16))
        assert result.error is not None
        assert result.error.startswith("`a` has no place: needs 17.7 GB on each"), "and not the share of the card"

    run(test, 24)


def test_an_engine_that_does_not_start_holds_nothing(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 6))
        harness.starter.broken.add("b")
        with pytest.raises(LoadFailed):
            await harness.load(checkpoint("b", 8))
        await harness.load(checkpoint("c", 8))
        assert set(harness.where()) == {"a", "c"}

    run(test, 24)


def test_a_share_that_somebody_set_is_what_vllm_gets(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 1))
        placement = _placement(harness.pool.snapshot().slots[0].placement)
        assert (placement.share, placement.kv_cache_bytes, placement.by) == (0.9, None, "gpu_memory_utilization")
        with pytest.raises(NoRoom):
            await harness.load(checkpoint("b", 1))

    run(test, 24, settings=EngineSettings(gpu_memory_utilization=0.9))


def test_a_cache_that_somebody_set_is_planned_with(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 1, EngineOverrides(args={"kv_cache_memory_bytes": 3 * GB})))
        placement = _placement(harness.pool.snapshot().slots[0].placement)
        assert (placement.kv_cache_bytes, placement.by) == (3 * GB, "kv_cache_memory_bytes")
        assert 4 * GB < placement.bytes_each < 7 * GB

    run(test, 24)


@pytest.mark.parametrize(
    ("config", "engine", "why"),
    [
        ({"hidden_size": 8}, None, "config.json of a has no num_attention_heads"),
        (CONFIG, {"args": {"speculative_config": {"method": "ngram"}}}, None),
        (CONFIG, {"args": {"cpu_offload_gb": 4}}, "engine.args.cpu_offload_gb makes it take more or less"),
        (CONFIG | {"num_hidden_layers": 4000}, None, "by the plan it needs"),
    ],
)
def test_what_cannot_be_planned_gets_the_usual_share_of_a_card(
    checkpoint: Make, config: dict[str, Any], engine: dict[str, Any] | None, why: str | None
) -> None:
    """An estimate keeps nothing from being tried on a card of its own."""
    ref = checkpoint("a", 1, EngineOverrides.model_validate(engine) if engine else None)
    Path(ref.path, "config.json").write_text(json.dumps(config))

    async def test(harness: CardPoolHarness) -> None:
        assert (await harness.activate(ref)).status == "activated"
        placement = _placement(harness.pool.snapshot().slots[0].placement)
        assert (placement.why or "").startswith(why or "")
        assert (placement.share == 0.9) == (placement.kv_cache_bytes is None) == (why is not None)

    run(test, 24)


def test_a_model_that_is_bound_to_a_card_goes_nowhere_else(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 1, EngineOverrides(devices=["GPU-1"])))
        await harness.load(checkpoint("b", 1, EngineOverrides(devices=["1"])))
        assert harness.where() == {"a": ["GPU-1"], "b": ["GPU-1"]}
        with pytest.raises(NoRoom, match="there is no device 7 here: 0, 1"):
            await harness.load(checkpoint("c", 1, EngineOverrides(devices=["7"])))

    run(test, 24, 24)


def test_where_no_card_is_found_vllm_takes_what_it_takes(checkpoint: Make) -> None:
    async def test(harness: CardPoolHarness) -> None:
        await harness.activate(checkpoint("a", 1))
        assert isinstance(harness.starter, CardStarter)
        assert harness.starter.unplaced == ["a"]
        assert harness.pool.snapshot().slots[0].placement is None

    run(test)


@pytest.mark.parametrize(
    ("engine", "cards", "sentence"),
    [
        ({}, 0, None),
        ({"devices": ["1"]}, 2, None),
        ({"devices": ["0"]}, 0, "engine.devices: no card was found on this machine"),
        ({"devices": ["0", "2"]}, 2, "engine.devices: there is no card 2 here, but 0, 1"),
        (
            {"devices": ["0", "GPU-0"], "args": {"tensor_parallel_size": 2}},
            2,
            "engine.devices names 1 cards and engine.args makes the model take 2",
        ),
    ],
)
def test_devices_of_a_registration_are_checked(engine: dict[str, Any], cards: int, sentence: str | None) -> None:
    there: Sequence[Device] = Driver(*[24] * cards).read()
    asked = EngineOverrides.model_validate(engine)
    if sentence is None:
        check_devices(asked, SETTINGS, there)
        return
    with pytest.raises(EngineArgumentRefused) as refused:
        check_devices(asked, SETTINGS, there)
    assert str(refused.value) == sentence
