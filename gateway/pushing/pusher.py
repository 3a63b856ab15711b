"""From a body of tensors to a version that serves: received, checked, and handed to the pool. One push at a time."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from gateway.errors import (
    BadWeights,
    ControlElsewhere,
    DeltaBaseGone,
    GatewayError,
    InvalidField,
    MethodImpossible,
    ModelNotFound,
    NoRoom,
    PushBroken,
    PushInProgress,
    PushRefused,
    RequestTooLarge,
    SwitchInProgress,
    Unserved,
    UpdateRefused,
)
from gateway.http.asgi import Receive, Scope
from gateway.http.body_to_file import Arrival, BodyToFile, Destination
from gateway.metrics import PUSHES
from gateway.pushing.options import PushOptions
from gateway.serving.memory import host_free_bytes
from gateway.serving.pool import Pool
from gateway.serving.slot import Slot
from gateway.serving.switching.plan import IN_PLACE_UNSAFE
from gateway.serving.switching.push import Pushed, PushRequest
from gateway.serving.weights.check import Checked, Expected, check, checked_files, expected_of
from gateway.serving.weights.delta import assembled
from gateway.serving.weights.staged import StagedWeights
from stepserve.contract import ACTIVE_ALIAS, ModelRef, Reference, WeightsVersion
from stepserve.probe import METADATA_KEY, Probe
from stepserve.readable import readable

log = logging.getLogger(__name__)

_SPARE_BYTES = 256 * 1024 * 1024


class WeightsTooLarge(RequestTooLarge):
    def __init__(self, name: str, limit_bytes: int) -> None:
        GatewayError.__init__(self, f"The body is longer than {limit_bytes} bytes, which all tensors of `{name}` take.")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. `weights`: for whoever puts them on disk, where that was asked for. `received_ms`: until the
    last byte of `received_bytes` had come; `checked_ms`: until all of them had been read again, and applied where they
    were a delta for the weights with the digest `base`. Requests were answered meanwhile.
    """

    request: PushRequest
    pushed: Pushed
    weights: StagedWeights | None
    received_ms: float
    checked_ms: float
    received_bytes: int
    base: str | None


@dataclass(slots=True)
class Arriving:
    """Weights that come in for `before`, which `slot` answered as when they began to; all of them, or what makes them
    of `base`: that is `delta` once they are made. Its owner closes it.
    """

    slot: Slot
    before: ModelRef
    expected: Expected
    base: StagedWeights | None = None
    weights: StagedWeights = field(default_factory=StagedWeights)
    length_bytes: int = 0
    receiving_s: float = 0.0
    delta: StagedWeights | None = field(default=None, init=False)
    _is_handed_over: bool = False

    def hand_over(self) -> None:
        """The weights are another's to close."""
        self._is_handed_over = True

    def become(self, weights: StagedWeights) -> None:
        """What has come in made these."""
        self.delta, self.weights = self.weights, weights

    def close(self) -> None:
        for each in (self.base, self.delta):
            if each is not None:
                each.close()
        if not self._is_handed_over:
            self.weights.close()


@dataclass(frozen=True, slots=True)
class Delta:
    """A body, as stepserve.delta says, that makes other weights of those with the digest `base`."""

    base: str
    body: StagedWeights


class Carrier(Protocol):
    """Who carries a push out over a fleet; gateway.pushing.over_fleet.FleetPushes is it."""

    @property
    def is_fleet(self) -> bool: ...

    async def push(self, request: PushRequest, delta: Delta | None) -> Pushed:
        """`delta`: how the weights came, where they did not come whole; its owner closes it."""


@dataclass(slots=True)
class Pusher:
    """A model's files are read at its first push: what it consists of, and the hashes of its tensors.

    `persist_every`: one of so many versions is kept for the disk whether its push asks for that or not; None: none.
    `head`: the URL of the fleet's head, on a member, where nobody pushes. `fleet`: whom a head's pushes are for.
    """

    pool: Pool
    bodies: BodyToFile
    persist_every: int | None = None
    head: str | None = None
    fleet: Carrier | None = None
    _receiving: str | None = field(default=None, init=False)
    _expected: tuple[ModelRef, Expected] | None = field(default=None, init=False)
    _of_files: tuple[str, Checked] | None = field(default=None, init=False)

    @property
    def is_busy(self) -> bool:
        """Whether a push comes in, or is being carried out."""
        return self._receiving is not None

    def active(self, name: str) -> Slot:
        """The active model's slot. Raises ModelNotFound, PushRefused (another model is active), Unserved."""
        serving, wanted = self.pool.loaded.serving, self.pool.snapshot().active
        if wanted is None or serving is None or serving.dead:
            raise Unserved("No model serves now that weights could be pushed to.", 5.0)
        if name not in (wanted.id, ACTIVE_ALIAS):
            if self.pool.loaded.answering(name) is None:
                raise ModelNotFound(name, [wanted.id, ACTIVE_ALIAS])
            raise PushRefused(f"`{name}` is not the active model, which alone takes pushes: POST /models/set_active.")
        return serving.host

    def check_here(self) -> None:
        """Raises ControlElsewhere on a member of a fleet: what is pushed there alone would be taken back."""
        if self.head is not None:
            raise ControlElsewhere(self.head)

    def check_alone(self, route: str) -> None:
        """Of a `route` that can hold the requests of this gateway alone. Raises UpdateRefused in a fleet."""
        self.check_here()
        if self.fleet is not None and self.fleet.is_fleet:
            raise UpdateRefused(
                f"{route} would hold the requests of this gateway alone, and it is the head of a fleet: leave it out."
                " Each gateway holds its requests while it takes the weights."
            )

    def target(self, name: str) -> Slot:
        """As `active`, if weights can be pushed into it now. Raises PushRefused (it has adapters), MethodImpossible."""
        slot, serving = self.active(name), self.pool.loaded.serving
        if serving is not slot:
            raise PushRefused("The active model is an adapter: push to a model with weights of its own.")
        if slot.adapters:
            names = ", ".join(f"`{each}`" for each in slot.adapters)
            raise PushRefused(f"`{slot.model.id}` has adapters on it, which are for its weights as they are: {names}.")
        if (obstacle := _obstacle(slot)) is not None:
            raise MethodImpossible(f"Weights cannot be pushed to `{slot.model.id}`: {obstacle}.")
        return slot

    async def expected(self, slot: Slot) -> Expected:
        """What the slot's model consists of. Raises PushRefused."""
        model = self.pool.snapshot().active or slot.model  # as it is registered
        if self._expected is None or self._expected[0] != model:
            found = await asyncio.to_thread(expected_of, Path(model.path), model.chat_template)
            self._expected = (model, found)
        return self._expected[1]

    async def push(self, name: str, options: PushOptions, scope: Scope, receive: Receive) -> Outcome:
        """Raises whatever refuses it; nothing was changed then. An outcome may be that it failed, too."""
        self.check_here()
        try:
            slot = self.target(name)
            with self._alone(slot.model.id):
                expected = await self.expected(slot)
                arriving = Arriving(slot, slot.model, expected, _base_of(slot, options.base))
                try:
                    await self.receive(arriving, scope, receive)
                    return await self.carry_out(arriving, options)
                finally:
                    arriving.close()
        except GatewayError:
            PUSHES.labels(outcome="refused").inc()
            raise

    async def begin(self, name: str) -> "Arriving":
        """Weights that come in pieces; no other push comes in until they are `end`ed. Raises as `push`."""
        self.check_here()
        slot = self.target(name)
        self._begin(slot.model.id)
        try:
            return Arriving(slot, slot.model, await self.expected(slot))
        except BaseException:
            self._receiving = None
            raise

    def end(self, arriving: "Arriving") -> None:
        arriving.close()
        self._receiving = None

    async def carry_out(self, arriving: "Arriving", options: PushOptions) -> Outcome:
        """What has come is checked and put into the model. Raises as `push`."""
        began_s = time.monotonic()
        request = await self._prepared(arriving, options)
        checked_ms = round(1000 * (time.monotonic() - began_s), 2)
        kept = arriving.weights.duplicate() if options.persist or self._is_due(request.version.number) else None
        arriving.hand_over()
        try:
            if self.fleet is None:  # whose the weights are from here on
                pushed = await self.pool.push(request)
            else:
                pushed = await self.fleet.push(request, _delta_of(arriving, options))
        except BaseException:
            if kept is not None:
                kept.close()
            raise
        received_ms, base = round(1000 * arriving.receiving_s, 2), options.base
        return Outcome(request, pushed, kept, received_ms, checked_ms, arriving.length_bytes, base)

    def _is_due(self, version: int) -> bool:
        return self.persist_every is not None and version % self.persist_every == 0

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Raises SwitchInProgress, PushInProgress."""
        self._begin(name)
        try:
            yield
        finally:
            self._receiving = None

    def _begin(self, name: str) -> None:
        if self.pool.switching_to is not None:
            raise SwitchInProgress(self.pool.switching_to)
        if self._receiving is not None:
            raise PushInProgress(self._receiving)
        self._receiving = name

    async def receive(self, arriving: "Arriving", scope: Scope, receive: Receive) -> None:
        """A body with tensors, after those that are there. Raises PushBroken, WeightsTooLarge, NoRoom."""
        name, length = arriving.before.id, _length(scope)
        most = arriving.expected.most_bytes - arriving.length_bytes
        if length is not None and length > most:
            raise WeightsTooLarge(name, most)
        needed, free = length or max(0, arriving.expected.bytes - arriving.length_bytes), host_free_bytes()
        if arriving.base is not None:
            needed += arriving.expected.bytes
        if needed + _SPARE_BYTES > free:
            raise NoRoom(f"The weights take {needed} bytes of this machine's memory, and {free} are free.", 5.0)
        there = Destination(arriving.weights.descriptor, arriving.length_bytes, length, limit_bytes=most)
        arrival, began_s = Arrival(), time.monotonic()
        try:
            await self.bodies.fill(there, scope, receive, arrival)
        except RequestTooLarge:
            raise WeightsTooLarge(name, most) from None
        except OSError as error:
            raise NoRoom(f"The weights cannot be kept in memory: {error.strerror}.", 5.0) from error
        if not arrival.complete:
            announced = f" of {length}" if length is not None else ""
            raise PushBroken(f"The body ended after {arrival.written_bytes}{announced} bytes. Nothing was changed.")
        arriving.length_bytes += arrival.written_bytes
        arriving.receiving_s += time.monotonic() - began_s

    async def _prepared(self, arriving: "Arriving", options: PushOptions) -> PushRequest:
        """Raises BadWeights, InvalidField, PushRefused."""
        slot, before, expected = arriving.slot, arriving.before, arriving.expected
        checked = await self._checked(arriving)
        changed = checked.changed(await self.served(slot))
        reference = _reference_in(checked, slot.engine.max_model_len_tokens)
        try:
            version = WeightsVersion(number=await self.pool.versions.next(before.id), label=options.label)
        except OSError as error:
            raise Unserved(f"The version's number cannot be written to disk: {error.strerror}.", 5.0) from error
        model = before.model_copy(update={"digest": await asyncio.to_thread(expected.digest, checked)})
        registered = self.pool.snapshot().active or before
        return PushRequest(
            slot=slot,
            before=before,
            model=model,
            files_digest=registered.digest,
            version=version,
            weights=arriving.weights,
            changed=changed,
            tensors=len(checked.tensors),
            reference=reference,
            in_flight=options.in_flight,
            timeout_s=options.timeout_s,
        )

    async def _checked(self, arriving: "Arriving") -> Checked:
        """All of the weights are there then. Raises BadWeights, NoRoom."""
        weights, base, expected = arriving.weights, arriving.base, arriving.expected
        if base is None:
            weights.checked = await asyncio.to_thread(check, weights.path, expected)
            return weights.checked
        making = asyncio.ensure_future(asyncio.to_thread(assembled, weights.path, base, expected))
        try:
            made = await asyncio.shield(making)
        except OSError as error:
            raise NoRoom(f"The weights cannot be kept in memory: {error.strerror}.", 5.0) from error
        finally:
            await asyncio.wait({making})  # it reads files that are closed after this
            making.exception()  # retrieved also when this request was cancelled
        assert made.checked is not None, "that is how they are made"
        arriving.become(made)
        return made.checked

    async def served(self, slot: Slot) -> Checked:
        """What the slot answers with now. Raises PushRefused."""
        if slot.weights is not None and slot.weights.checked is not None:
            return slot.weights.checked
        model = slot.model
        if self._of_files is None or self._of_files[0] != model.digest:
            self._of_files = (model.digest, await asyncio.to_thread(checked_files, Path(model.path)))
        return self._of_files[1]


def _delta_of(arriving: Arriving, options: PushOptions) -> Delta | None:
    if arriving.delta is None or options.base is None:
        return None
    return Delta(options.base, arriving.delta)


def base_of(slot: Slot) -> str | None:
    """The digest of the weights that a delta can be for now; None: for none."""
    return slot.model.digest if slot.weights is not None else None


def _base_of(slot: Slot, digest: str | None) -> StagedWeights | None:
    """The weights with that digest, for a delta. Raises DeltaBaseGone."""
    if digest is None:
        return None
    if slot.weights is None or slot.model.digest != digest:
        raise DeltaBaseGone(slot.model.id, base_of(slot))
    return slot.weights.duplicate()


def _obstacle(slot: Slot) -> str | None:
    model = slot.model
    if model.quantize is not None:
        return f"it was quantised at load ({model.quantize}), from weights that a push does not quantise"
    signature = model.signature
    if signature is None:
        return "it is not known what it consists of"
    for key in (signature.quantization, signature.architecture):
        if key in IN_PLACE_UNSAFE:
            return f"{key}: {IN_PLACE_UNSAFE[key]}"
    if slot.engine.other_nodes:
        return "it is spread over nodes, and pushed weights are on the head alone"
    return slot.engine.reload_obstacle


def _reference_in(checked: Checked, longest: int | None) -> Reference | None:
    """The probe that came with the tensors. Raises BadWeights, InvalidField."""
    text = checked.metadata.get(METADATA_KEY)
    if text is None:
        return None
    try:
        probe = Probe.model_validate(_json(text))
    except ValidationError as error:
        raise _bad_probe(readable(error.errors(include_url=False))) from error
    if (misfit := probe.misfit(None, longest)) is not None:
        raise BadWeights([misfit])
    return probe.reference()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad_probe(f"is not valid JSON ({error})") from error


def _bad_probe(reason: str) -> InvalidField:
    error = InvalidField("probe", reason)
    error.status = 422
    return error


def _length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
