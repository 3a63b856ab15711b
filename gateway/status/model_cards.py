"""GET /v1/models: OpenAI's model objects of every name that a request may use."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.errors import ModelNotFound
from gateway.serving.naming import Naming
from gateway.serving.pool import Pool
from gateway.sidecar.directory import ControlDirectory, NoDirectory
from gateway.upstream.directory import Directory as UpstreamDirectory
from stepserve.contract import ACTIVE_ALIAS, RegisteredModel

Card = dict[str, object]


@dataclass(frozen=True, slots=True)
class ModelCards:
    """`created` is when a model was registered, or when this process began where that is not known."""

    pool: Pool
    directory: ControlDirectory | NoDirectory
    naming: Naming
    load_on_request: bool
    elsewhere: UpstreamDirectory | None = None
    began_s: int = field(default_factory=lambda: int(time.time()))

    async def all(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": list((await self._cards()).values())})

    async def one(self, request: Request) -> Response:
        """Finds what a request with that `model` would find. Raises ModelNotFound."""
        name: str = request.path_params["name"]
        cards = await self._cards()
        for candidate in (name, *self.naming.candidates(name)):
            if candidate in cards:
                return JSONResponse(cards[candidate] | {"id": name})
        raise ModelNotFound(name, cards)

    async def ids(self) -> set[str]:
        """Of all models that are registered or loaded; only of the loaded ones while control is away."""
        loaded = {slot.model.id for slot in self.pool.snapshot().slots}
        return loaded | {each.id for each in await self.directory.listed()}

    async def _cards(self) -> dict[str, Card]:
        """By name: what is loaded, what a request would load, the names of both, and what other hosts have."""
        registered = {each.id: each for each in await self.directory.listed()}
        cards: dict[str, Card] = {}
        # The active one first: trainers take that for the model that they talk to.
        for slot in sorted(self.pool.snapshot().slots, key=lambda slot: not slot.active):
            if slot.phase == "draining":
                continue
            for name in (slot.model.id, ACTIVE_ALIAS) if slot.active else (slot.model.id,):
                cards[name] = self._card(name, slot.model.id, registered) | {
                    "max_model_len": slot.max_model_len_tokens,
                    "digest": slot.model.digest,
                }
        if self.load_on_request:
            for model_id in registered:
                cards.setdefault(model_id, self._card(model_id, model_id, registered))
        for model_id, each in registered.items():
            if each.repository is not None and model_id in cards:
                cards.setdefault(each.repository, cards[model_id] | {"id": each.repository})
        if self.elsewhere is not None:
            for name, tier in {**self.elsewhere.models(), **{tier: tier for tier in self.elsewhere.tiers}}.items():
                cards.setdefault(name, self._card(name, name, registered) | {"owned_by": tier})
        for name, alias in self.naming.aliases.items():
            if alias.model in cards:
                cards[name] = cards[alias.model] | {"id": name}
        return cards

    def _card(self, name: str, root: str, registered: Mapping[str, RegisteredModel]) -> Card:
        known = registered.get(root)
        created = known.created_s if known is not None else self.began_s
        return {"id": name, "object": "model", "created": created, "owned_by": "stepserve", "root": root}
