"""vLLM's routes for trainers, with its names and bodies: pauses, updates of weights, and what is asked before.

They are for the active model. `?model=` says which one the caller means, and is refused where that is another.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec
from pydantic import ConfigDict

from gateway.dialects.call import Call
from gateway.dialects.router import Route
from gateway.errors import InvalidField, InvalidRequest
from gateway.http.asgi import Receive, Scope, Send, read_body, send_json
from gateway.pushing.options import PushOptions, check_label
from gateway.pushing.persist import Persisting
from gateway.pushing.pusher import Pusher
from gateway.pushing.routes import note, told
from gateway.pushing.updates import BACK_END, Updates
from gateway.serving.slot import Slot
from gateway.serving.weights.check import Announced
from stepserve.contract import ACTIVE_ALIAS, InFlightPolicy
from stepserve.request_id import key_id
from stepserve.request_model import RequestModel

Json = dict[str, Any]

_MODES: Mapping[str, InFlightPolicy] = {"abort": "abort", "wait": "finish", "keep": "keep"}
_LONGEST_JSON_BYTES = 16 * 1024 * 1024
_TORCH_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64", "float16": "F16",
    "bfloat16": "BF16", "float32": "F32", "float64": "F64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip


class _Body(RequestModel):
    model_config = ConfigDict(extra="forbid")


class InitRequest(_Body):
    """`init_info`: of the back end; `{"backend": "http"}` here."""

    init_info: dict[str, Any]


class StartRequest(_Body):
    """`is_checkpoint_format`: the tensors have the names and shapes of the checkpoint's files, as they must here."""

    is_checkpoint_format: Literal[True] = True


class FinishRequest(_Body):
    """`weight_version`: the trainer's own name of the version. `persist`: it becomes a checkpoint on disk too."""

    weight_version: str | None = None
    persist: bool = False


class _UpdateInfo(msgspec.Struct):
    """Tensors that are announced, in vLLM's words: three lists of the same length."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class _UpdateRequest(msgspec.Struct):
    update_info: _UpdateInfo | list[_UpdateInfo]


@dataclass(slots=True)
class TrainerRoutes:
    updates: Updates
    pusher: Pusher
    persisting: Persisting

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/pause", "vLLM: hold requests (`?mode=abort`, `wait` or `keep`)", self.pause),
            Route("POST", "/resume", "vLLM: answer requests again", self.resume),
            Route("GET", "/is_paused", "vLLM: whether requests are held", self.is_paused),
            Route("GET", "/weight_info", "vLLM: the version of the weights that serve", self.weight_info),
            Route("GET", "/server_info", "vLLM: what trainers read of its configuration", self.server_info),
            Route("GET", "/get_world_size", "vLLM: how many processes compute", self.world_size),
            Route("POST", "/reset_prefix_cache", "vLLM: forget what was computed of prompts", self.reset_prefix_cache),
            Route(
                "POST", "/init_weight_transfer_engine", "vLLM: agree on a back end for weights",
                self.initialise, request=InitRequest,
            ),
            Route("POST", "/shutdown_weight_transfer_engine", "vLLM: no updates any more", self.shut_down),
            Route(
                "POST", "/start_weight_update", "vLLM: begin an update of the weights",
                self.start, request=StartRequest,
            ),
            Route(
                "POST", "/finish_weight_update", "vLLM: check, load and prove what has come",
                self.finish, request=FinishRequest,
            ),
        ]  # fmt: skip

    async def pause(self, call: Call, _: None) -> None:
        """`clear_cache` is vLLM's; a cache is always cleared here before other weights serve."""
        asked = _asked(call.scope, "mode", "clear_cache", "model")
        await self.updates.pause(_model(asked), _mode(asked.get("mode", "abort")))
        await call.answer({"status": "paused"})

    async def resume(self, call: Call, _: None) -> None:
        _asked(call.scope, "model")
        await self.updates.pool.resume()
        await call.answer({"status": "resumed"})

    async def is_paused(self, call: Call, _: None) -> None:
        _asked(call.scope, "model")
        await call.answer({"is_paused": self.updates.pool.is_paused})

    async def weight_info(self, call: Call, _: None) -> None:
        slot = self._slot(call)
        number, label = slot.version.number, slot.version.label
        await call.answer({"weight_version": label or str(number), "version": number, "digest": slot.model.digest})

    async def server_info(self, call: Call, _: None) -> None:
        """In vLLM's places, and no more than clients read: no path, no variable, no secret."""
        asked = _asked(call.scope, "config_format", "model")
        slot = self.pusher.active(_model(asked))
        size = slot.engine.world_size
        config = {
            "model_config": {
                "model": slot.model.id,
                "dtype": slot.engine.dtype,
                "max_model_len": slot.engine.max_model_len_tokens,
                "logprobs_mode": slot.engine.logprobs_mode,
            },
            "parallel_config": {"world_size": size, "world_size_across_dp": size},
            "weight_transfer_config": {"backend": BACK_END},
        }
        kind = asked.get("config_format", "text")
        if kind not in ("text", "json"):
            raise InvalidField("config_format", "must be text or json")
        await call.answer({"vllm_config": config if kind == "json" else str(config)})

    async def world_size(self, call: Call, _: None) -> None:
        asked = _asked(call.scope, "include_dp", "model")
        await call.answer({"world_size": self.pusher.active(_model(asked)).engine.world_size})

    async def reset_prefix_cache(self, call: Call, _: None) -> None:
        asked = _asked(call.scope, "reset_running_requests", "reset_external", "model")
        engine = self.pusher.active(_model(asked)).engine
        is_empty = await engine.forget_prefixes(
            of_running=_flag(asked, "reset_running_requests"), of_connector=_flag(asked, "reset_external")
        )
        await call.answer({"success": is_empty})

    async def initialise(self, call: Call, request: InitRequest) -> None:
        self.updates.initialise(_model(_asked(call.scope, "model")), request.init_info.get("backend"))
        await call.answer({"message": "Weight transfer initialized", "backend": BACK_END})

    async def shut_down(self, call: Call, _: None) -> None:
        _asked(call.scope, "model")
        self.updates.shut_down(key_id.get())
        await call.answer({"message": "Weight transfer shut down"})

    async def start(self, call: Call, _: StartRequest) -> None:
        """`?mode=`: requests are held, as by /pause, until the update is over."""
        asked = _asked(call.scope, "mode", "model")
        mode = _mode(asked["mode"]) if "mode" in asked else None
        await self.updates.start(_model(asked), mode, key_id.get())
        await call.answer({"message": "Weight update started"})

    async def finish(self, call: Call, request: FinishRequest) -> None:
        _asked(call.scope, "model")
        if request.weight_version is not None:
            check_label("weight_version", request.weight_version)
        options = PushOptions(label=request.weight_version, persist=request.persist)
        outcome = await self.updates.finish(options, key_id.get())
        note(call.scope, outcome)
        status, answer = told(outcome, self.persisting)
        message = {"message": "Weight update finished"} if status == 200 else {}
        await send_json(call.send, status, message | answer)

    async def update(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tensors as safetensors bytes; or, as JSON, the announcement of some that come in another request, which is
        answered once they are there. Raises as `Updates.receive` and `.expect`.
        """
        _asked(scope, "model")
        if _is_json(scope):
            announced = await asyncio.to_thread(_announced, await read_body(receive, _LONGEST_JSON_BYTES))
            await self.updates.expect(announced, key_id.get())
            await send_json(send, 200, {"message": "Weights updated"})
            return
        count = await self.updates.receive(scope, receive, key_id.get())
        await send_json(send, 200, {"message": "Weights updated", "tensors": count})

    def _slot(self, call: Call) -> Slot:
        return self.pusher.active(_model(_asked(call.scope, "model")))


def _asked(scope: Scope, *names: str) -> dict[str, str]:
    """The parameters of the URL. Raises InvalidField for one that is none of `names`."""
    asked = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    for name in asked:
        if name not in names:
            raise InvalidField(name[:50], f"is not a parameter of this route; it takes {', '.join(names)}")
    return asked


def _model(asked: Mapping[str, str]) -> str:
    return asked.get("model") or ACTIVE_ALIAS


def _mode(said: str) -> InFlightPolicy:
    if said not in _MODES:
        raise InvalidField("mode", f"must be one of {', '.join(_MODES)}, not {said[:50]!r}")
    return _MODES[said]


def _flag(asked: Mapping[str, str], name: str) -> bool:
    said = asked.get(name, "false").lower()
    if said not in ("true", "1", "false", "0"):
        raise InvalidField(name, "must be true or false")
    return said in ("true", "1")


def _is_json(scope: Scope) -> bool:
    kind: bytes = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return kind.partition(b";")[0].strip().lower() == b"application/json"


def _announced(body: bytes) -> list[Announced]:
    """Blocks for as long as megabytes take. Raises InvalidRequest, InvalidField."""
    try:
        info = msgspec.json.decode(body, type=_UpdateRequest).update_info
    except msgspec.ValidationError as error:  # the first: of a million that are wrong nobody reads more
        raise InvalidRequest(f"the announcement is not as vLLM's: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    return [announced for each in (info if isinstance(info, list) else [info]) for announced in _tensors(each)]


def _tensors(info: _UpdateInfo) -> list[Announced]:
    if not len(info.names) == len(info.dtype_names) == len(info.shapes):
        raise InvalidField("update_info", "names, dtype_names and shapes must have the same length")
    for dtype in info.dtype_names:
        if dtype not in _TORCH_NAMES:
            raise InvalidField("update_info.dtype_names", f"{dtype[:50]!r} is not one of {', '.join(_TORCH_NAMES)}")
    return [
        Announced(name, _TORCH_NAMES[dtype], tuple(shape))
        for name, dtype, shape in zip(info.names, info.dtype_names, info.shapes, strict=True)
    ]
