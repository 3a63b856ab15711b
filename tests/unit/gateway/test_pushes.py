"""Pushes of weights into the active model, as the requests at the gate see them."""

import asyncio

import pytest

from gateway.errors import PushInProgress, PushRefused, SwitchInProgress, Unserved
from gateway.serving.slot import Slot
from gateway.serving.switching.push import Pushed, PushRequest
from gateway.serving.weights.staged import StagedWeights
from stepserve.contract import ActivateRequest, InFlightPolicy, LoadRequest, ModelRef, Reference, WeightsVersion
from tests.eventually import eventually
from tests.unit.gateway.fakes import model, reference, signature
from tests.unit.gateway.pool_harness import PoolHarness, scenario

A, B = model("a", signature()), model("b", signature())
OTHER = model("other", signature(tensors_sha="x"))
ON_A = ModelRef(id="on-a", path="/", digest="sha256:on-a", base=A)


def push_of(
    harness: PoolHarness,
    content: bytes = b"new",
    number: int = 1,
    *,
    proved_by: Reference | None = None,
    in_flight: InFlightPolicy = "finish",
    timeout_s: float = 300.0,
) -> PushRequest:
    slot = harness.pool.loaded.active
    assert isinstance(slot, Slot)
    weights = StagedWeights()
    weights.path.write_bytes(content)
    return PushRequest(
        slot=slot,
        before=slot.model,
        model=slot.model.model_copy(update={"digest": f"sha256:pushed-{number}"}),
        files_digest="sha256:files",
        version=WeightsVersion(number=number, label=f"step-{number}"),
        weights=weights,
        changed=3,
        tensors=3,
        reference=proved_by,
        in_flight=in_flight,
        timeout_s=timeout_s,
    )


async def pushed(harness: PoolHarness, request: PushRequest) -> Pushed:
    return await harness.pool.push(request)


@scenario
async def test_a_push_changes_what_answers_and_not_what_is_active(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A, reference=reference("a")))
    result = await pushed(harness, push_of(harness, proved_by=reference("a")))
    assert result.error is None
    assert result.proof is not None
    assert (result.proof.kind, result.proof.passed) == ("reference", True)
    engine = harness.starter.started[0]
    assert (engine.weights, engine.ref.digest, len(harness.starter.started)) == (b"new", "sha256:pushed-1", 1)
    state = harness.pool.snapshot()
    assert state.active == A
    assert state.slots[0].model.digest == "sha256:pushed-1"
    assert state.pushed == WeightsVersion(number=1, label="step-1")
    slot = harness.pool.loaded.active
    assert slot is not None
    assert dict(slot.identity_headers)[b"x-model-version"] == b"1"


@scenario
async def test_a_request_inside_finishes_first_and_others_wait(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.release.clear()
    inside = asyncio.create_task(harness.ask())
    await engine.entered.wait()
    pushing = asyncio.create_task(pushed(harness, push_of(harness)))
    await eventually(lambda: harness.gate.slot is None)
    later = asyncio.create_task(harness.ask())
    await eventually(lambda: harness.pool.snapshot().held == 1)
    assert engine.reloads == 0
    engine.release.set()
    assert await inside == b"a:"
    assert (await pushing).in_flight == 1
    assert await later == b"a:"


@scenario
async def test_requests_are_answered_while_pushed_weights_are_made_ready(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.may_stage.clear()
    pushing = asyncio.create_task(pushed(harness, push_of(harness)))
    await engine.staging.wait()
    assert await harness.ask() == b"a:"
    with pytest.raises(PushInProgress):
        await pushed(harness, push_of(harness, b"two", 2))
    engine.may_stage.set()
    assert (await pushing).error is None
    assert (engine.taken_over, engine.weights) == (True, b"new")


@scenario
async def test_pushed_weights_that_cannot_be_made_ready_are_read_later(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.cannot_stage = "there is no memory for it"
    assert (await pushed(harness, push_of(harness))).error is None
    assert (engine.taken_over, engine.weights) == (False, b"new")


@scenario
async def test_a_push_whose_drain_does_not_end_keeps_nothing_ready(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.release.clear()
    inside = asyncio.create_task(harness.ask())
    await engine.entered.wait()
    assert (await pushed(harness, push_of(harness, timeout_s=0.01))).error is not None
    assert engine.staged is None
    engine.release.set()
    assert await inside == b"a:"


@scenario
async def test_without_a_reference_the_answers_must_be_others_than_before(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    first = await pushed(harness, push_of(harness, b"new"))
    assert first.proof is not None
    assert first.proof.kind == "changed"
    harness.starter.started[0].deaf = True
    again = await pushed(harness, push_of(harness, b"two", 2))
    assert again.proof is not None
    assert again.proof.reason == "3 of 3 tensors are others than before, and the model answers exactly as before"
    assert (again.restored, harness.starter.started[0].weights) == (True, b"new")


@pytest.mark.parametrize("content", [b"torn", b"NaN"])
def test_a_push_that_fails_brings_back_what_was_pushed_before(content: bytes) -> None:
    @scenario
    async def run(harness: PoolHarness) -> None:
        await harness.pool.activate(ActivateRequest(model=A))
        assert (await pushed(harness, push_of(harness, b"good"))).error is None
        request = push_of(harness, content, 2)
        result = await pushed(harness, request)
        assert result.error is not None
        assert result.restored
        assert harness.starter.started[0].weights == b"good"
        assert harness.pool.snapshot().pushed == WeightsVersion(number=1, label="step-1")
        assert request.weights.descriptor < 0, "its memory is given back"
        assert await harness.ask() == b"a:"

    run()


@scenario
async def test_a_failed_proof_by_reference_brings_the_files_back(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A, reference=reference("a")))
    result = await pushed(harness, push_of(harness, proved_by=reference("somebody else")))
    assert result.proof is not None
    assert not result.proof.passed
    assert harness.starter.started[0].weights == b""
    assert harness.pool.snapshot().pushed is None


@scenario
async def test_a_drain_that_does_not_end_changes_nothing(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.release.clear()
    inside = asyncio.create_task(harness.ask())
    await engine.entered.wait()
    result = await pushed(harness, push_of(harness, timeout_s=0.01))
    assert result.error is not None
    assert (result.error.code, result.paused_ms, engine.reloads) == ("drain_failed", 0.0, 0)
    engine.release.set()
    assert await inside == b"a:"
    assert await harness.ask() == b"a:"


@scenario
async def test_who_is_kept_inside_goes_on_after_the_proof_or_with_what_was_before(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.release.clear()
    inside = asyncio.create_task(harness.ask())
    await engine.entered.wait()
    first = await pushed(harness, push_of(harness, in_flight="keep"))
    assert first.error is None
    assert first.proof is not None
    assert (first.proof.kind, engine.frozen_at_proof, engine.frozen) == ("changed", True, False)
    result = await pushed(harness, push_of(harness, b"NaN", 2, in_flight="keep"))
    assert result.error is not None
    assert (engine.frozen_at_proof, engine.frozen, engine.weights) == (True, False, b"new")
    assert not inside.done()
    engine.release.set()
    assert await inside == b"a:"


@scenario
async def test_a_switch_leads_to_the_files_and_its_failure_back_to_the_push(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    await pushed(harness, push_of(harness))
    failed = await harness.pool.activate(ActivateRequest(model=B, reference=reference("somebody else")))
    assert failed.rolled_back_to == "a"
    assert harness.starter.started[0].weights == b"new"
    assert harness.pool.snapshot().pushed == WeightsVersion(number=1, label="step-1")
    assert harness.pool.snapshot().active == A
    again = await harness.pool.activate(ActivateRequest(model=A))
    assert (again.status, again.method) == ("activated", "in_place")
    assert harness.starter.started[0].weights == b""
    assert harness.pool.snapshot().pushed is None


@scenario
async def test_an_engine_that_dies_comes_back_with_the_files(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    request = push_of(harness)
    await pushed(harness, request)
    harness.starter.started[0].dead = True
    await eventually(lambda: len(harness.starter.started) == 2 and harness.pool.serving is not None)
    assert harness.starter.started[1].ref == A
    assert harness.pool.snapshot().pushed is None
    await eventually(lambda: request.weights.descriptor < 0)


@scenario
async def test_when_nothing_can_be_put_back_a_new_engine_has_the_files(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.may_reload.clear()
    pushing = asyncio.create_task(pushed(harness, push_of(harness)))
    await engine.reloading.wait()
    engine.dead = True
    engine.may_reload.set()
    result = await pushing
    assert (result.restored, result.error is not None) == (False, True)
    await eventually(lambda: len(harness.starter.started) == 2 and harness.pool.serving is not None)
    assert await harness.ask() == b"a:"


@scenario
async def test_one_writer(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.may_reload.clear()
    pushing = asyncio.create_task(pushed(harness, push_of(harness)))
    await engine.reloading.wait()
    with pytest.raises(PushInProgress):
        await pushed(harness, push_of(harness, number=2))
    with pytest.raises(PushInProgress):
        await harness.pool.activate(ActivateRequest(model=B))
    engine.may_reload.set()
    assert (await pushing).error is None
    engine.may_reload.clear()
    engine.reloading.clear()
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=B)))
    await engine.reloading.wait()
    with pytest.raises(SwitchInProgress):
        await pushed(harness, push_of(harness, number=3))
    engine.may_reload.set()
    assert (await switching).status == "activated"


@scenario
async def test_a_push_that_was_prepared_before_a_switch_is_refused(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    request = push_of(harness)
    await harness.pool.activate(ActivateRequest(model=B))
    with pytest.raises(PushRefused, match="was switched or reloaded"):
        await pushed(harness, request)
    assert request.weights.descriptor < 0


@scenario
async def test_a_base_with_adapters_takes_no_push(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    request = push_of(harness)
    await harness.pool.load(LoadRequest(model=ON_A))
    with pytest.raises(PushRefused, match="`on-a`"):
        await pushed(harness, request)


@scenario
async def test_pushed_weights_take_no_adapter_of_the_files(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    await pushed(harness, push_of(harness))
    with pytest.raises(Unserved, match="active with other content"):
        await harness.pool.load(LoadRequest(model=ON_A))
    assert (await harness.pool.activate(ActivateRequest(model=ON_A))).status == "activated"
    assert (harness.starter.started[0].weights, harness.starter.started[0].attached) == (b"", ["sha256:on-a"])


def test_pushed_weights_do_not_stay_beside_the_next_model() -> None:
    @scenario
    async def run(harness: PoolHarness) -> None:
        harness.free_bytes = 10_000
        await harness.pool.activate(ActivateRequest(model=A))
        await harness.load(OTHER)
        await pushed(harness, push_of(harness))
        assert (await harness.pool.activate(ActivateRequest(model=OTHER))).status == "activated"
        await eventually(lambda: [slot.model.id for slot in harness.pool.snapshot().slots] == ["other"])

    run()
