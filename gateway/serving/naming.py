"""Names of models beside their ids: aliases with presets, and what an unknown name gets."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from stepserve.contract import ACTIVE_ALIAS, id_of_repository
from stepserve.settings import Alias

Json = dict[str, Any]

# What a preset's fields are called on each route; a field that a route does not know is left out there.
_SAME = {name: name for name in Alias.model_fields if name not in {"model", "max_tokens"}}
_FIELDS: dict[str, dict[str, str]] = {
    "/v1/chat/completions": _SAME | {"max_tokens": "max_tokens"},
    "/v1/completions": _SAME | {"max_tokens": "max_tokens"},
    "/generate": _SAME | {"max_tokens": "max_tokens"},
    "/v1/responses": _SAME | {"max_tokens": "max_output_tokens"},
    "/v1/messages": {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "stop": "stop_sequences"},
}
_SYNONYMS = {"max_tokens": "max_completion_tokens"}


@dataclass(slots=True)
class Naming:
    """`unknown`: what a name that nobody bears gets, a 404 or the active model. Both may change between requests."""

    aliases: Mapping[str, Alias] = field(default_factory=dict)
    unknown: Literal["not_found", "active"] = "not_found"

    def target(self, name: str | None) -> str | None:
        """The model that a name stands for, as far as the settings know; another name is returned as it is."""
        alias = self.aliases.get(name) if name else None
        return alias.model if alias else name

    def aliases_of(self, names: Collection[str]) -> list[str]:
        """The aliases that stand for one of these."""
        return [alias for alias, meant in self.aliases.items() if meant.model in names]

    def preset(self, name: str | None, path: str) -> Json:
        """The default sampling of an alias, in the terms of one of vLLM's routes."""
        alias = self.aliases.get(name) if name else None
        if alias is None:
            return {}
        given = alias.model_dump(exclude_none=True)
        return {theirs: given[ours] for ours, theirs in _FIELDS.get(path, {}).items() if ours in given}

    def candidates(self, name: str | None) -> list[str | None]:
        """The models that a name may mean, best first; None is the active one.

        After the model itself come, for a name that nobody bears, the model that was pulled from the repository of
        that name, and the active model where the settings give it to unknown names.
        """
        target = self.target(name)
        if not target or target == ACTIVE_ALIAS:
            return [target]
        pulled = [id_of_repository(target)] if "/" in target else []
        return [target, *pulled, *([ACTIVE_ALIAS] if self.unknown == "active" else [])]

    def sent_to(self, body: bytes, path: str, name: str | None, model_id: str) -> bytes:
        """The body for another model than the one that `name` leads to, with the preset of an alias."""
        return _changed(body, {"model": model_id}, self.preset(name, path))

    def rewritten(self, body: bytes, path: str, name: str | None, candidate: str | None, model_id: str) -> bytes:
        """The body as whoever serves `model_id`, which `candidate` led to, is to read it.

        One that names a model by its id, or none, stays as it is, byte by byte. A preset is its alias's model's alone.
        """
        if candidate != self.target(name):
            return _changed(body, {"model": model_id}, {})
        if name not in self.aliases:
            return body
        return _changed(body, {"model": model_id}, self.preset(name, path))


def _changed(body: bytes, forced: Json, defaults: Json) -> bytes:
    """Only for bodies whose `model` could be read, so they are JSON objects."""
    asked: Json = msgspec.json.decode(body)
    said = {key for key, value in asked.items() if value is not None}
    missing = {key: value for key, value in defaults.items() if not said & {key, _SYNONYMS.get(key)}}
    return msgspec.json.encode(asked | missing | forced)
