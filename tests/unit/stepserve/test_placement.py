"""Which models go on which devices, for machines that people have. Sizes are those of published models."""

import time

import pytest

from stepserve.devices import cards_in
from stepserve.placement import Device, Load, Placed, Shape, need_of, place

GB = 1_000_000_000
SIZES = {  # parameters, layers, hidden, intermediate, heads, key and value heads, vocabulary
    "0.6B": (0.6, 28, 1024, 3072, 16, 8, 151_936),
    "8B": (8.2, 36, 4096, 12288, 32, 8, 151_936),
    "32B": (32.8, 64, 5120, 25600, 64, 8, 151_936),
    "70B": (70.6, 80, 8192, 28672, 64, 8, 128_256),
}
BITS = {"bf16": 16.0, "fp8": 8.4, "4bit": 4.8}  # embeddings and scales are wider


def shape(size: str, bits: str) -> Shape:
    billions, layers, hidden, intermediate, heads, kv_heads, vocabulary = SIZES[size]
    weights = int(billions * GB * BITS[bits] / 8)
    return Shape(f"{size} {bits}", weights, layers, hidden, intermediate, heads, kv_heads, 128, vocabulary, 32_768)


def machine(count: int, each_gb: int) -> list[Device]:
    return [Device(str(number), each_gb * GB, "card") for number in range(count)]


def devices_of(placed: Placed) -> int:
    return len(placed.devices)


@pytest.mark.parametrize(
    ("size", "bits", "on_24", "on_2_of_24", "on_8_of_80"),
    [
        ("0.6B", "bf16", 1, 1, 1),
        ("0.6B", "4bit", 1, 1, 1),
        ("8B", "bf16", 0, 2, 1),
        ("8B", "fp8", 1, 1, 1),
        ("8B", "4bit", 1, 1, 1),
        ("32B", "bf16", 0, 0, 2),
        ("32B", "fp8", 0, 0, 1),
        ("32B", "4bit", 0, 2, 1),
        ("70B", "bf16", 0, 0, 4),
        ("70B", "fp8", 0, 0, 2),
        ("70B", "4bit", 0, 0, 1),
    ],
)
def test_one_model_alone(size: str, bits: str, on_24: int, on_2_of_24: int, on_8_of_80: int) -> None:
    """With 32 sequences at once, or one of 32,768 tokens; 0: it has no place."""
    asked = [(shape(size, bits), Load())]
    found = [devices_of(place(asked, machine(*cards))[0]) for cards in ((1, 24), (2, 24), (8, 80))]
    assert found == [on_24, on_2_of_24, on_8_of_80]


def test_two_small_models_share_a_card_and_leave_the_other_empty() -> None:
    first, second, large = place(
        [(shape("0.6B", "bf16"), Load(8, 4096)), (shape("0.6B", "4bit"), Load(8, 4096)), (shape("8B", "4bit"), Load())],
        machine(2, 24),
    )
    assert first.devices == second.devices
    assert large.devices
    assert set(large.devices) <= {"0", "1"}


def test_a_large_model_finds_its_devices_whatever_order_they_are_named_in() -> None:
    asked = [(shape("32B", "fp8"), Load()), (shape("70B", "fp8"), Load())]
    small, large = place(asked, machine(3, 80))
    assert (devices_of(small), devices_of(large)) == (1, 2)
    assert not set(small.devices) & set(large.devices)
    assert place(asked[::-1], machine(3, 80)) == [large, small]


def test_ranks_divide_the_heads_and_are_of_one_kind() -> None:
    odd = Shape("odd", 30 * GB, 10, 1024, 4096, 7, 7, 128, 32_000, 4096)
    assert place([(odd, Load())], machine(8, 24))[0].reason is not None
    mixed = [Device("0", 24 * GB, "a"), Device("1", 24 * GB, "b")]
    assert place([(shape("8B", "bf16"), Load())], mixed)[0].devices == ()


def test_why_there_is_no_place() -> None:
    reason = place([(shape("70B", "bf16"), Load())], machine(1, 24))[0].reason
    assert reason is not None
    assert "the emptiest has 22.6 GB left" in reason
    assert place([(shape("0.6B", "bf16"), Load())], [])[0].reason == "there is no device"


def test_a_cache_in_fewer_bits_takes_less_and_one_for_more_sequences_more() -> None:
    usual = need_of(shape("8B", "bf16"), Load(64, 4096), 1).kv_cache_bytes
    assert usual == 64 * 1024 * 2 * 36 * 8 * 128 * 2
    assert need_of(shape("8B", "bf16"), Load(64, 4096, kv_bits=8), 1).kv_cache_bytes == usual // 2
    assert need_of(shape("8B", "bf16"), Load(128, 4096), 1).kv_cache_bytes == 2 * usual
    assert need_of(shape("8B", "bf16"), Load(64, 4096), 16).kv_cache_bytes == usual // 8, "no less than a head"


def test_the_shape_is_read_from_config_json() -> None:
    config = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100}
    found = Shape.of("m", {"text_config": config}, 10)
    assert (found.kv_heads, found.head_dim, found.max_tokens) == (4, 16, 4096)
    with pytest.raises(ValueError, match=r"config\.json of m has no vocab_size"):
        Shape.of("m", {name: value for name, value in config.items() if name != "vocab_size"}, 10)


def test_cards_as_nvidia_smi_says_them() -> None:
    listing = (
        "0, GPU-aa11, [N/A], NVIDIA GB10\n1, GPU-bb22, 23028, NVIDIA GeForce RTX 3090\n"
        "2, GPU-cc33, 81920, NVIDIA H100, 80 GB\n\nNo devices were found\n"
    )
    small = Device("1", 23028 * 1024 * 1024, "NVIDIA GeForce RTX 3090")
    large = Device("2", 81920 * 1024 * 1024, "NVIDIA H100, 80 GB")
    assert cards_in(listing) == [small, large]
    assert cards_in(listing, "2,1") == [large, small]
    assert cards_in(listing, "GPU-cc") == [large]
    assert cards_in(listing, "") == []


def test_a_plan_takes_milliseconds() -> None:
    asked = [(shape(size, bits), Load()) for size in SIZES for bits in BITS]
    place(asked, machine(8, 80))
    started = time.process_time()
    place(asked, machine(8, 80))
    assert time.process_time() - started < 0.005
