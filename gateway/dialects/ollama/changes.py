"""POST /api/create, /api/copy and DELETE /api/delete: a name with parameters is an alias here."""

from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from pydantic import Field, ValidationError

from gateway.dialects.call import Call, Json
from gateway.dialects.ollama.models import Models
from gateway.dialects.ollama.requests import Lenient, ModelName, NameRequest
from gateway.errors import AliasNotFound, InvalidRequest
from gateway.http.error_rendering import Failure
from gateway.sidecar.control_link import ControlProxy
from stepserve.contract import ACTIVE_ALIAS
from stepserve.readable import readable
from stepserve.settings import Alias

_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
# What a Modelfile may have and an alias has not. `num_ctx` and the like are of how Ollama loads a model.
_NOT_HERE = ("files", "adapters", "template", "system", "messages", "quantize")


class AliasKeeper(Protocol):
    """`gateway.edge.configuration.Configuration` is the real one."""

    async def keep(self, name: str, alias: Alias) -> bool: ...

    async def forget(self, name: str) -> None: ...


class CopyRequest(Lenient):
    source: ModelName
    destination: ModelName


class CreateRequest(Lenient):
    """`from` is a registered model or an alias, whose own preset is taken over."""

    model: ModelName
    source: ModelName | None = Field(default=None, alias="from")
    parameters: dict[str, Any] = Field(default={})
    stream: bool | None = None
    files: Any = None
    adapters: Any = None
    template: str | None = None
    system: str | None = None
    messages: Any = None
    quantize: str | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    models: Models
    aliases: AliasKeeper
    control: ControlProxy

    async def create(self, call: Call, request: CreateRequest) -> None:
        """Raises InvalidRequest for what an alias cannot be, ModelNotFound, AliasConfigured."""
        for name in _NOT_HERE:
            if getattr(request, name):
                raise InvalidRequest(f"{name}: here /api/create gives a registered model another name and parameters")
        if request.source is None:
            raise InvalidRequest("from: is missing; it names a registered model")
        await self._put(request.model, request.source, request.parameters)
        if request.stream is False:
            await call.answer({"status": "success"})
            return
        lines = b"".join(msgspec.json.encode({"status": said}) + b"\n" for said in ("writing manifest", "success"))
        headers = [(b"content-type", b"application/x-ndjson"), (b"content-length", str(len(lines)).encode())]
        await call.send({"type": "http.response.start", "status": 200, "headers": headers})
        await call.send({"type": "http.response.body", "body": lines})

    async def copy(self, call: Call, request: CopyRequest) -> None:
        """Raises ModelNotFound, InvalidRequest, AliasConfigured."""
        await self._put(request.destination, request.source, {})
        await call.empty()

    async def delete(self, call: Call, request: NameRequest) -> None:
        """An alias, or else a registered model with the files that the server placed. Raises Unserved."""
        name = request.named()
        try:
            await self.aliases.forget(name)
        except AliasNotFound:
            answer = await self.control.request("DELETE", f"/models/{quote(name, safe='')}?files=true")
            if answer.status_code != 200:
                await call.refuse(Failure.said(answer.status_code, answer.content))
                return
        await call.empty()

    async def _put(self, name: str, source: str, parameters: Json) -> None:
        naming = self.models.served.naming
        preset = naming.aliases[source].model_dump(exclude_none=True) if source in naming.aliases else {}
        target = ACTIVE_ALIAS if naming.target(source) == ACTIVE_ALIAS else (await self.models.entry(source)).id
        given = {ours: parameters[theirs] for theirs, ours in _PARAMETERS.items() if parameters.get(theirs) is not None}
        if isinstance(given.get("stop"), str):
            given["stop"] = [given["stop"]]
        if (predicted := parameters.get("num_predict")) is not None and predicted != -1:
            given["max_tokens"] = predicted
        try:
            alias = Alias.model_validate(preset | given | {"model": target})
        except ValidationError as error:
            raise InvalidRequest(f"parameters: {readable(error.errors(include_url=False))}") from error
        await self.aliases.keep(name, alias)
