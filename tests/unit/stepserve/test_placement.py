"""Which models go on which devices, for machines that people have. Sizes are those of published models."""

import time
from dataclasses import replace

import pytest

from stepserve.placement import Device, Load, Placed, Shape, how_many, need_of, place, place_next

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


def next_on(size: str, bits: str, load: Load, *left_gb: float, total_gb: int = 24) -> Placed:
    cards = [Device(str(n), int(left * GB), "card", total_bytes=total_gb * GB) for n, left in enumerate(left_gb)]
    return place_next("m", shape(size, bits), load, cards)


def test_an_engine_leaves_room_for_another_like_it() -> None:
    """So a switch without a pause is possible; what else there is becomes its KV cache."""
    load = Load(256)
    first = next_on("0.6B", "bf16", load, 24)
    assert first.need is not None
    assert (
        first.need.least_kv_cache_bytes
        < first.need.kv_cache_bytes
        < need_of(shape("0.6B", "bf16"), load, 1).kv_cache_bytes
    )
    left = 24 - first.bytes_each / GB + 1e-6
    second = next_on("0.6B", "bf16", load, left)
    assert second.need is not None
    assert second.devices == ("0",)
    assert second.need.kv_cache_bytes >= second.need.least_kv_cache_bytes
    assert next_on("0.6B", "bf16", load, left - second.bytes_each / GB).devices == ()


def test_an_engine_keeps_no_room_that_another_card_has_or_that_would_be_too_little() -> None:
    alone = next_on("0.6B", "bf16", Load(256), 24)
    with_another = next_on("0.6B", "bf16", Load(256), 24, 24)
    assert with_another.bytes_each > alone.bytes_each
    large = next_on("8B", "fp8", Load(256), 24)
    assert large.bytes_each == int(24 * GB * 0.94), "two of them do not fit: it takes all"


def test_an_engine_takes_no_more_than_its_sequences_need() -> None:
    placed = next_on("0.6B", "bf16", Load(8, 1024), 80, total_gb=80)
    assert placed.need == need_of(shape("0.6B", "bf16"), Load(8, 1024), 1)


def test_what_somebody_has_said_counts() -> None:
    assert next_on("0.6B", "bf16", Load(kv_cache_bytes=GB), 24).need == need_of(
        shape("0.6B", "bf16"), Load(kv_cache_bytes=GB), 1
    )
    half = next_on("0.6B", "bf16", Load(share=0.5), 24)
    assert (half.devices, half.need, half.bytes_each) == (("0",), None, 12 * GB)
    assert place_next("m", None, Load(share=0.9), machine(1, 24)).bytes_each == int(21.6 * GB)
    assert next_on("0.6B", "bf16", Load(share=0.5), 11).devices == ()
    assert next_on("0.6B", "bf16", Load(ranks=2), 24, 24).devices == ("0", "1")
    assert next_on("0.6B", "bf16", Load(ranks=2), 24).reason == "it takes 2 devices, and it may have 1"


def test_a_model_is_bound_to_devices_by_number_or_id() -> None:
    cards = [Device("0", 24 * GB, "a", "GPU-aa1"), Device("1", 24 * GB, "a", "GPU-bb2")]
    for name in ("1", "GPU-bb2", "GPU-bb"):
        assert place_next("m", shape("0.6B", "bf16"), Load(devices=(name,)), cards).devices == ("1",)
    for name in ("7", "GPU-cc"):
        reason = place_next("m", shape("0.6B", "bf16"), Load(devices=(name,)), cards).reason
        assert reason == f"there is no device {name} here: 0, 1"


def test_how_many_engines_fit() -> None:
    assert how_many(shape("0.6B", "bf16"), Load(32, 4096), machine(1, 24)) == 7
    assert how_many(shape("8B", "fp8"), Load(32, 4096), machine(2, 24)) == 4
    # Two on four cards each, and a third over all eight in what these leave.
    assert how_many(shape("70B", "bf16"), Load(), machine(8, 80)) == 3
    assert how_many(shape("70B", "bf16"), Load(), machine(1, 24)) == 0
    assert how_many(None, Load(share=0.45), machine(1, 24)) == 2


def test_latent_attention_keeps_one_vector_of_a_token() -> None:
    config = {
        "hidden_size": 7168, "num_attention_heads": 128, "num_hidden_layers": 61, "vocab_size": 129_280,
        "kv_lora_rank": 512, "qk_rope_head_dim": 64,
    }  # fmt: skip
    load = Load(1, 4096, kv_cache_bytes=None)
    need = need_of(Shape.of("m", config, GB), load, 8)
    assert need.kv_cache_bytes == need.least_kv_cache_bytes == (4096 + 512) * 61 * 576 * 2


def test_adapters_and_pictures_take_room() -> None:
    plain = need_of(shape("8B", "bf16"), Load(), 1)
    assert need_of(shape("8B", "bf16"), Load(adapters=4, adapter_rank=64), 1).total_bytes > plain.total_bytes + GB // 2
    pictures = need_of(replace(shape("8B", "bf16"), media=True), Load(), 1)
    assert pictures.total_bytes > plain.total_bytes


def test_a_plan_takes_milliseconds() -> None:
    asked = [(shape(size, bits), Load()) for size in SIZES for bits in BITS]
    place(asked, machine(8, 80))
    started = time.process_time()
    place(asked, machine(8, 80))
    assert time.process_time() - started < 0.005
    started = time.process_time()
    place_next("m", shape("70B", "bf16"), Load(), machine(8, 80))
    assert time.process_time() - started < 0.005


def test_ranks_on_other_nodes_hold_their_share() -> None:
    large = shape("70B", "bf16")
    assert need_of(large, Load(ranks=2, nodes=2), 2) == need_of(large, Load(ranks=4), 4)
