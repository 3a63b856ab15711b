import pytest

from control.checkpoints.quantisation import QuantizeWish, choose, quantized_digest, quantized_signature
from control.errors import Invalid
from stepserve.contract import Capabilities, Quantize, Signature

GB = 1_000_000_000
THRESHOLD = 14 * GB


def device(memory_gb: int, **quantize: str) -> Capabilities:
    return Capabilities.model_validate(
        {"device": "cuda", "memory_bytes": memory_gb * GB, "architectures": [], "model_types": [],
         "quantize": quantize, "prequantized": []}
    )  # fmt: skip


BOTH = device(80, q4="mxfp4", q8="fp8_per_channel", fp16="float16")
EIGHT = device(80, q8="fp8_per_channel", fp16="float16")
SMALL = device(16, q8="fp8_per_channel", fp16="float16")
NOTHING = device(16)


@pytest.mark.parametrize(
    ("wish", "size_gb", "quantization", "can", "expected"),
    [
        ("no", 200, None, NOTHING, None),
        ("auto", 13, None, BOTH, None),
        ("auto", 14, None, BOTH, "q4"),
        ("auto", 14, None, EIGHT, "q8"),
        ("auto", 13, None, NOTHING, None),
        ("auto", 13, None, None, None),
        ("auto", 14, None, SMALL, "q8"),  # below no threshold, and too large as it is
        ("auto", 40, "gptq", SMALL, None),
        ("q8", 1, None, SMALL, "q8"),
        ("fp16", 1, None, SMALL, "fp16"),
    ],
)
def test_the_choice(
    wish: QuantizeWish, size_gb: int, quantization: str | None, can: Capabilities | None, expected: Quantize | None
) -> None:
    assert choose(
        wish, weights_bytes=size_gb * GB, quantization=quantization, threshold_bytes=THRESHOLD, can=can
    ) == expected  # fmt: skip


@pytest.mark.parametrize(
    ("wish", "size_gb", "quantization", "can", "named"),
    [
        ("q4", 1, None, SMALL, "q4 is not possible with this vLLM on cuda; possible here: auto, fp16, q8, no"),
        ("q8", 1, "gptq", SMALL, "quantised already (gptq)"),
        ("auto", 100, None, SMALL, "nothing that is possible"),
        ("auto", 15, None, NOTHING, "possible: auto, no"),
    ],
)
def test_what_is_impossible_says_what_is_not(
    wish: QuantizeWish, size_gb: int, quantization: str | None, can: Capabilities, named: str
) -> None:
    with pytest.raises(Invalid) as refused:
        choose(wish, weights_bytes=size_gb * GB, quantization=quantization, threshold_bytes=THRESHOLD, can=can)
    assert named in str(refused.value)


def test_what_is_loaded_otherwise_is_something_else() -> None:
    plain = Signature(architecture="A", config_sha="c", tokenizer_sha="t", tensors_sha="s", weights_bytes=1000)
    assert quantized_signature(plain, None) == plain
    eight = quantized_signature(plain, "q8")
    assert (eight.quantization, eight.weights_bytes, eight.config_sha != "c") == ("q8", 600, True)
    assert quantized_digest("sha256:aa", None) == "sha256:aa"
    assert len({quantized_digest("sha256:aa", way) for way in (None, "q4", "q8", "fp16")}) == 4
