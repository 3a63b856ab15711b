"""What a checkpoint becomes when it is loaded: a pure choice, and what follows from it for digest and signature."""

import hashlib
from typing import Final, Literal

from control.errors import Invalid
from stepserve.contract import Capabilities, Quantize, Signature

QuantizeWish = Literal["auto", "q4", "q8", "fp16", "no"]

# Bytes of the loaded weights a byte of a 16-bit checkpoint: embeddings and scales stay wider than the layers.
LOADED_RATIO: Final[dict[Quantize, float]] = {"q4": 0.35, "q8": 0.6, "fp16": 1.0}

# Of the memory, what weights may take at most: the KV cache and the engine itself need the rest.
WEIGHTS_SHARE: Final = 0.85


def needs_capabilities(wish: QuantizeWish, weights_bytes: int, threshold_bytes: int) -> bool:
    """Whether `choose` cannot do without knowing what the engine can."""
    return wish not in {"no", "auto"} or (wish == "auto" and weights_bytes >= threshold_bytes)


def choose(
    wish: QuantizeWish,
    *,
    weights_bytes: int,
    quantization: str | None,
    threshold_bytes: int,
    can: Capabilities | None,
) -> Quantize | None:
    """How to load weights of this size that are quantised by `quantization` already, or not at all (None).

    `auto` leaves alone what is smaller than the threshold and fits into memory, and takes four bits before eight else.
    Raises Invalid saying what is possible.
    """
    if wish == "no":
        return None
    if quantization is not None:
        if wish == "auto":
            return None
        raise Invalid(f"quantize: the checkpoint is quantised already ({quantization}); possible here: auto, no")
    if wish != "auto":
        if can is None or wish not in can.quantize:
            raise Invalid(f"quantize: {wish} is not possible {_where(can)}; possible here: {_possible(can)}")
        return wish
    return None if can is None else _automatic(weights_bytes, threshold_bytes, can)


def _automatic(weights_bytes: int, threshold_bytes: int, can: Capabilities) -> Quantize | None:
    room_bytes = can.memory_bytes * WEIGHTS_SHARE
    if weights_bytes < threshold_bytes and weights_bytes <= room_bytes:
        return None
    ways: tuple[Quantize, ...] = ("q4", "q8")
    for way in ways:
        if way in can.quantize and weights_bytes * LOADED_RATIO[way] <= room_bytes:
            return way
    if weights_bytes <= room_bytes:
        return None
    raise Invalid(
        f"quantize: the weights are {weights_bytes / 1e9:.1f} GB, {can.memory_bytes / 1e9:.1f} GB of memory are there,"
        f" and nothing that is possible {_where(can)} makes them fit (possible: {_possible(can)});"
        " `no` loads them all the same"
    )


def quantized_digest(digest: str, quantize: Quantize | None) -> str:
    """The digest of what answers: the same files answer otherwise when they are quantised at load."""
    if quantize is None:
        return digest
    return f"sha256:{hashlib.sha256(f'{digest} quantize={quantize}'.encode()).hexdigest()}"


def quantized_signature(signature: Signature, quantize: Quantize | None) -> Signature:
    """The signature of what is loaded: another configuration, and less of it."""
    if quantize is None:
        return signature
    config = f"{signature.config_sha} quantize={quantize}"
    return signature.model_copy(
        update={
            "config_sha": hashlib.sha256(config.encode()).hexdigest(),
            "weights_bytes": int(signature.weights_bytes * LOADED_RATIO[quantize]),
            "quantization": signature.quantization if quantize == "fp16" else quantize,
        }
    )


def _possible(can: Capabilities | None) -> str:
    return ", ".join(["auto", *sorted(can.quantize if can else ()), "no"])


def _where(can: Capabilities | None) -> str:
    return f"with this vLLM on {can.device}" if can else "here"
