"""Which models other hosts have, by tier; asked for every half minute where hosts.json does not say."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from gateway.upstream.errors import UpstreamError
from gateway.upstream.replica import Replica
from gateway.upstream.wire import Wire, whole
from stepserve.contract import ACTIVE_ALIAS
from stepserve.hosts import Hosts

log = logging.getLogger(__name__)

_EVERY_S = 30.0
_ANSWER_TIMEOUT_S = 5.0
_MOST_MODELS = 1000
_MOST_BYTES = 4 * 1024 * 1024  # decoded on the event loop
_LONGEST_NAME = 300


class _Card(msgspec.Struct):
    id: str


class _Cards(msgspec.Struct):
    data: list[_Card]


_decoder = msgspec.json.Decoder(_Cards)


class Directory:
    """Names are those of tiers and of the models that any of their servers has."""

    def __init__(self, hosts: Hosts, wire: Wire, every_s: float = _EVERY_S) -> None:
        """Raises HostsRefused when the variable with a key is not set."""
        self._wire = wire
        self._every_s = every_s
        self.tiers: dict[str, list[Replica]] = {}
        self._having: dict[str, list[Replica]] = {}
        self._replaced = asyncio.Event()
        self.replace(hosts)

    def replace(self, hosts: Hosts) -> None:
        """Other hosts from now on. One that stays as it was keeps what is known of it; requests under way go on.

        Raises HostsRefused when the variable with a key is not set, and then nothing is changed.
        """
        known = list(_all(self.tiers.values()))
        self.tiers = {
            name: [_kept(Replica.of(name, tier, upstream), known) for upstream in tier.upstreams]
            for name, tier in hosts.tiers.items()
        }
        self._index()
        self._replaced.set()

    def having(self, name: str | None) -> list[Replica]:
        """Who may be asked for a model of this name; a tier's name means any model of it. Empty: nobody."""
        if name is None:
            return []
        return self._having.get(name) or self.tiers.get(name, [])

    def models(self, tier_name: str | None = None) -> dict[str, str]:
        """Names of models and the tier that each is of; of one tier or of all."""
        found: dict[str, str] = {}
        for name, replicas in self.tiers.items():
            if tier_name in {None, name}:
                found.update({model: name for each in replicas for model in each.models or () if model not in found})
        if tier_name is None:
            found.pop(ACTIVE_ALIAS, None)
        return found

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._replaced.clear()
            asked = [each for each in _all(self.tiers.values()) if each.is_asked]
            await asyncio.gather(*(self._ask(each) for each in asked))
            self._index()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s if asked else None):
                    await self._replaced.wait()

    async def _ask(self, replica: Replica) -> None:
        """Keeps the last answer where there is none now; requests show whether the server lives."""
        try:
            async with (
                asyncio.timeout(2 * _ANSWER_TIMEOUT_S),
                self._wire.ask(replica, "GET", "/models", [], None, _ANSWER_TIMEOUT_S) as answer,
            ):
                if answer.status_code != 200:
                    log.warning("%s does not say which models it has: %d", replica.base_url, answer.status_code)
                    return
                cards = _decoder.decode(await whole(answer, replica, _ANSWER_TIMEOUT_S, _MOST_BYTES))
        except (UpstreamError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s does not say which models it has: %s", replica.base_url, error or "it takes too long")
            return
        names = (card.id for card in cards.data if 0 < len(card.id) <= _LONGEST_NAME and card.id.isprintable())
        replica.models = tuple(dict.fromkeys(names))[:_MOST_MODELS]

    def _index(self) -> None:
        having: dict[str, list[Replica]] = {}
        for replica in _all(self.tiers.values()):
            for model in replica.models or ():
                if model != ACTIVE_ALIAS:  # here it means the model that is active here
                    having.setdefault(model, []).append(replica)
        self._having = having


def _kept(replica: Replica, known: Iterable[Replica]) -> Replica:
    """The one of these that is the same server under the same settings, else the new one."""
    return next((each for each in known if each.is_as(replica)), replica)


def _all(lists: Iterable[list[Replica]]) -> Iterable[Replica]:
    return (each for replicas in lists for each in replicas)
