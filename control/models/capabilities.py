"""What the gateway's engine can do, asked for once: it does not change while a gateway lives."""

import asyncio
import logging
from pathlib import Path

from control.errors import GatewayUnavailable, Invalid, ServiceError
from control.gateway_client import GatewayClient
from stepserve.contract import Capabilities, CheckEngineRequest, EngineOverrides

ASK_AGAIN_S = 1.0

log = logging.getLogger(__name__)

# Names that checkpoints use for methods which vLLM calls otherwise.
_SAME_AS = {"auto-round": "inc", "intel/auto-round": "inc", "compressed_tensors": "compressed-tensors"}


class EngineAbilities:
    def __init__(self, gateway: GatewayClient) -> None:
        self._gateway = gateway
        self._known: Capabilities | None = None

    async def check_engine(self, engine: EngineOverrides, folder: Path | None = None) -> bool:
        """Has vLLM look at what an engine is to be started with, for the checkpoint in `folder` if there is one yet.

        False where the gateway does not answer now: it looks again when the model is loaded. Raises Invalid.
        """
        asked = CheckEngineRequest(engine=engine, path=str(folder) if folder is not None else None)
        try:
            checked = await self._gateway.check_engine(asked)
        except GatewayUnavailable as error:
            log.warning("engine arguments were not checked: %s", error)
            return False
        if checked.refusal is not None:
            raise Invalid(f"engine: {checked.refusal.removeprefix('engine.')}")
        return True

    @property
    def known(self) -> Capabilities | None:
        """What was learned before, without asking."""
        return self._known

    async def get(self) -> Capabilities:
        """Raises GatewayUnavailable when they were never learned and the gateway is away or has not loaded vLLM yet."""
        if self._known is None:
            self._known = await self._gateway.capabilities()
        return self._known

    async def learn(self) -> None:
        """Asks until somebody answers."""
        while self._known is None:
            try:
                await self.get()
            except ServiceError as error:
                log.debug("it is not known yet what the engine can do: %s", error)
                await asyncio.sleep(ASK_AGAIN_S)


def backend_of(architecture: str, can: Capabilities | None) -> str | None:
    """`vllm`, or `transformers` for an architecture that vLLM runs through transformers' code. None: not known now."""
    if can is None:
        return None
    return "vllm" if architecture in can.architectures else "transformers"


def check_servable(*, quantization: str | None, can: Capabilities | None) -> None:
    """Raises Invalid for a checkpoint that is quantised in a way that this vLLM has no code for."""
    if quantization is None or can is None:
        return
    if _SAME_AS.get(quantization, quantization) not in can.prequantized:
        known = ", ".join(sorted(can.prequantized))
        raise Invalid(f"the checkpoint is quantised by {quantization}, which this vLLM cannot serve; it can: {known}")


def check_no_remote_code(config: dict[str, object], can: Capabilities) -> None:
    """Raises Invalid for a config.json that only the repository's own Python code could make a model of."""
    remote = config.get("auto_map")
    if not remote:
        return
    model_type = config.get("model_type")
    if model_type in can.model_types:
        return  # vLLM or transformers has code of its own for it, and the repository's is not touched
    raise Invalid(
        f"config.json asks for the repository's own Python code (auto_map, model_type {model_type!r}): it is refused"
        " unless INFERENCE_ENGINE__TRUST_REMOTE_CODE is on"
    )
