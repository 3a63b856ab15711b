"""An update of weights in vLLM's phases: init, start, update as often as needed, finish. One transaction, as a push is.

Nothing that a trainer does or leaves undone between the phases reaches the engine: the tensors lie in shared memory
until `finish`, which checks them and pushes them.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.errors import GatewayError, InvalidField, UpdateRefused
from gateway.http.asgi import Receive, Scope
from gateway.metrics import PUSHES
from gateway.pushing.options import PushOptions
from gateway.pushing.pusher import Arriving, Outcome, Pusher
from gateway.serving.pauses import PauseRequest
from gateway.serving.pool import Pool
from gateway.serving.weights.check import Announced, check_announced, check_piece
from stepserve.contract import InFlightPolicy
from stepserve.settings import WeightsSettings

log = logging.getLogger(__name__)

BACK_END = "http"


@dataclass(slots=True)
class Update:
    """`owner`: the key that started it. `has_paused`: it holds the pause that it asked for. `works`: a request that
    belongs to it is being carried out; a `fault` that another one finds meanwhile ends the update after that. `moved`
    is set when more is there, or nothing more will be.
    """

    arriving: Arriving
    owner: str | None
    in_flight: InFlightPolicy
    has_paused: bool
    names: set[str] = field(default_factory=set)
    works: bool = False
    fault: str | None = None
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()


@dataclass(slots=True)
class Updates:
    """One update at a time, from its start until it is finished or given up."""

    pusher: Pusher
    pool: Pool
    settings: WeightsSettings
    _is_initialised: bool = field(default=False, init=False)
    _update: Update | None = field(default=None, init=False)
    _why_none: str = field(default="POST /start_weight_update first", init=False)
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)
    _resuming: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def initialise(self, name: str, back_end: object) -> None:
        """Raises InvalidField for another back end than ours, and as `Pusher.target`."""
        if back_end != BACK_END:
            error = InvalidField(
                "init_info.backend",
                f"must be {BACK_END!r}: this server takes tensors as bytes of POST /update_weights, and joins no group"
                " of processes",
            )
            error.status = 422
            raise error
        self.pusher.check_here()
        self.pusher.target(name)
        if self._update is not None:
            raise UpdateRefused(self._under_way)
        self._is_initialised = True

    def shut_down(self, owner: str | None) -> None:
        """An update of the caller's is given up. Raises UpdateRefused for another's."""
        if self._update is not None:
            self._give_up(self._of(owner), "POST /shutdown_weight_transfer_engine ended it")
        self._is_initialised = False

    async def pause(self, name: str, in_flight: InFlightPolicy) -> None:
        """Raises as `Pusher.active` and `Pool.pause`."""
        self.pusher.check_alone("POST /pause")
        slot = self.pusher.active(name)
        await self.pool.pause(PauseRequest(slot, in_flight, self.settings.max_pause_s))

    async def start(self, name: str, in_flight: InFlightPolicy | None, owner: str | None) -> None:
        """`in_flight`: requests are held from now on; None: from `finish` on. Raises UpdateRefused, and as
        `Pusher.begin` and `Pool.pause`.
        """
        if in_flight is not None:
            self.pusher.check_alone("?mode= of POST /start_weight_update")
        if not self._is_initialised:
            raise UpdateRefused("No update can start: POST /init_weight_transfer_engine first.")
        if self._update is not None:
            raise UpdateRefused(self._under_way)
        update = self._update = Update(
            await self.pusher.begin(name), owner, in_flight or "finish", in_flight is not None
        )
        if in_flight is not None:
            update.works = True
            try:
                await self.pool.pause(PauseRequest(update.arriving.slot, in_flight, self.settings.max_pause_s))
            except BaseException as error:
                # Who is cut off while it waits for the pause does not stop that: it begins, and is to end.
                update.has_paused = not isinstance(error, GatewayError)
                self._give_up(update, str(error))
                raise
            update.works = False
        self._touch()

    async def expect(self, tensors: Sequence[Announced], owner: str | None) -> None:
        """Returns when tensors that were announced are there.

        Raises BadWeights, which ends the update; UpdateRefused.
        """
        update = self._of(owner, alone=False)  # the tensors may be coming in just now
        try:
            check_announced(tensors, update.arriving.expected)
        except GatewayError as error:
            if update.works:  # which writes or reads the weights now, so they are not taken away from under it
                update.fault = str(error)
            else:
                self._give_up(update, str(error))
            raise
        self._touch()
        names = {tensor.name for tensor in tensors}
        while not names <= update.names:
            if self._update is not update:
                raise UpdateRefused(f"The update ended before the tensors came: {self._why_none}.")
            await update.moved.wait()

    async def receive(self, scope: Scope, receive: Receive, owner: str | None) -> int:
        """Takes a body with tensors; how many there are now. Raises PushBroken, BadWeights, WeightsTooLarge and NoRoom,
        which end the update; UpdateRefused, also when a wrong announcement has ended it meanwhile.
        """
        update = self._of(owner)
        arriving, begin = update.arriving, update.arriving.length_bytes
        update.works = True
        try:
            await self.pusher.receive(arriving, scope, receive)
            update.names |= set(
                await asyncio.to_thread(check_piece, arriving.weights.path, begin, arriving.expected, update.names)
            )
        except BaseException as error:
            self._give_up(update, str(error) or type(error).__name__)
            raise
        update.works = False
        if update.fault is not None:
            self._give_up(update, update.fault)
            raise UpdateRefused(f"The update ended while the tensors came: {self._why_none}.")
        self._touch()
        update.tell()
        return len(update.names)

    async def finish(self, options: PushOptions, owner: str | None) -> Outcome:
        """Raises as `Pusher.carry_out`, and UpdateRefused; the update is over then, too, unless it is another's."""
        update = self._of(owner)
        update.works = True
        try:
            outcome = await self.pusher.carry_out(update.arriving, options.with_requests(update.in_flight))
        except BaseException as error:
            if isinstance(error, GatewayError):
                PUSHES.labels(outcome="refused").inc()
            self._give_up(update, str(error) or type(error).__name__)
            raise
        failed = outcome.pushed.error
        self._close(update, f"the last one failed: {failed}" if failed is not None else "the last one is finished")
        if update.has_paused:
            await self.pool.resume()
        return outcome

    @property
    def _under_way(self) -> str:
        assert self._update is not None
        return (
            f"An update of `{self._update.arriving.before.id}` is under way: it is finished first, or given up after"
            f" {self.settings.update_timeout_s:g} s in which its trainer says nothing."
        )

    def _of(self, owner: str | None, *, alone: bool = True) -> Update:
        """The update, for who started it and does nothing else with it now (`alone`). Raises UpdateRefused."""
        update = self._update
        if update is None:
            raise UpdateRefused(f"No update is under way: {self._why_none}.")
        if update.owner != owner:
            raise UpdateRefused("The update that is under way was started with another key.")
        if alone and update.works:
            raise UpdateRefused("Another request of this update is being carried out; wait for its answer.")
        return update

    def _touch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self.settings.update_timeout_s, self._time_out)

    def _time_out(self) -> None:
        update = self._update
        if update is None:
            return
        if update.works:
            self._touch()
        else:
            silence = f"{self.settings.update_timeout_s:g} s (setting weights.update_timeout_s)"
            self._give_up(update, f"its trainer said nothing for {silence}")

    def _give_up(self, update: Update, why: str) -> None:
        """What has come of it is of no use. Nothing was changed."""
        if self._update is not update:
            return
        log.error("an update of %s is given up: %s", update.arriving.before.id, why)
        self._close(update, f"the last one was given up: {why}")
        if update.has_paused:
            resuming = asyncio.create_task(self.pool.resume())
            self._resuming.add(resuming)
            resuming.add_done_callback(self._resuming.discard)

    def _close(self, update: Update, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._update, self._why_none = None, why.removesuffix(".")
        self.pusher.end(update.arriving)
        update.tell()
