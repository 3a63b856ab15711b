"""TRL's own client of a vLLM server, with its tensors over HTTP in the place of its group of CUDA devices.

    from stepserve.client.trl import use_http_weights

    use_http_weights()  # before the trainer is made
    trainer = GRPOTrainer(…, args=GRPOConfig(use_vllm=True, vllm_mode="server", vllm_server_base_url=URL, …))

Everything but the communicator is TRL's, as it is (seen with TRL 1.16).
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from stepserve.client.client import Client
from stepserve.client.weights import WeightsBody, expected_weights, push_timeout

_CLIENT, _TRAINERS = "trl.generation.vllm_client", "trl.generation.vllm_generation"
_TIMEOUT_S = 300.0


class HttpCommunicator:
    """Takes the place of TRL's NCCL group. Floating-point tensors are sent in the types that the server's model has."""

    def __init__(self, url: str) -> None:
        self._client = Client(url)

    def send(self, tensors: Iterator[tuple[str, Any]]) -> None:
        """Returns when the server has all of them. Raises StepserveError."""
        body = WeightsBody.of(tensors, self._client.send(expected_weights()), None)
        content, timeout = map(bytes, body.pieces), push_timeout(_TIMEOUT_S)
        with self._client.streaming(
            "POST", "/update_weights", content=content, headers=body.headers(), timeout=timeout
        ) as answer:
            answer.read()

    def close(self) -> None:
        self._client.close()


def use_http_weights() -> type[Any]:
    """TRL's trainers and whoever makes the class that this returns send weights over HTTP from now on.

    Raises ImportError where TRL is not installed, or is one whose client sends its tensors otherwise.
    """
    theirs: Any = importlib.import_module(_CLIENT)
    if not hasattr(theirs, "packed_nccl_broadcast_producer"):
        raise ImportError("this TRL, or the vLLM beside it, sends weights otherwise than TRL 1.16 with vLLM 0.32 does")
    theirs.packed_nccl_broadcast_producer = _broadcast
    trainers: Any = importlib.import_module(_TRAINERS)
    client = trainers.VLLMClient = _client_of(theirs.VLLMClient)
    return client


def _broadcast(*, iterator: Iterator[tuple[str, Any]], group: HttpCommunicator, **_: Any) -> None:
    group.send(iterator)


def _client_of(base: type[Any]) -> type[Any]:
    def init_communicator(client: Any, device: object = 0) -> None:  # noqa: ARG001 - TRL's signature
        if client.get_server_info()["weight_transfer_config"] is None:
            raise RuntimeError(f"The server at {client.base_url} takes no weights.")
        url = f"{client.base_url}/init_weight_transfer_engine"
        client._post(url, json={"init_info": {"backend": "http"}})
        client.communicator = HttpCommunicator(client.base_url)

    def close_communicator(client: Any) -> None:
        if client.communicator is not None:
            client.communicator.close()
            client.communicator = None

    members: dict[str, Callable[..., None]] = {
        "init_communicator": init_communicator,
        "close_communicator": close_communicator,
    }
    return type("HttpVLLMClient", (base,), dict(members))
