import pytest

from gateway.serving.proof_tolerance import (
    ADAPTER,
    DTYPES,
    EIGHT_BIT_FLOATS,
    EIGHT_BIT_INTEGERS,
    FOUR_BITS,
    over,
    tolerance_of,
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_stands_above_all_rounding_that_was_measured(dtype: str) -> None:
    most = DTYPES[dtype].most
    assert tolerance_of("reference", None, dtype) > most
    assert tolerance_of("reference", None, dtype, "fp8") > most + EIGHT_BIT_FLOATS.most
    assert tolerance_of("reference", None, dtype, "awq_marlin") > most + FOUR_BITS.most


def test_a_reference_that_knows_its_checkpoints_rounding_is_held_to_that() -> None:
    assert tolerance_of("computed", 0.04, "bfloat16") == pytest.approx(0.06)
    assert tolerance_of("reference", 0.04, "bfloat16") == pytest.approx(0.09)  # autocast shows less than an engine has
    assert tolerance_of("computed", 0.001, "bfloat16") == DTYPES["bfloat16"].least
    assert tolerance_of("computed", 0.2, "float16") == pytest.approx(0.045)  # an eighth, and some more
    assert tolerance_of("computed", 0.04, "float32") == DTYPES["float32"].least


def test_no_noise_at_all_says_nothing() -> None:
    assert tolerance_of("reference", 0.0, "bfloat16") == tolerance_of("reference", None, "bfloat16")


def test_fewer_bits_are_allowed_more() -> None:
    kinds = ((None,), ("experts_int8",), ("fp8",), ("gptq", 4))
    widths = [tolerance_of("computed", 0.02, "bfloat16", *kind) for kind in kinds]
    assert widths == sorted(set(widths))
    gptq_of_eight_bits = tolerance_of("reference", None, "bfloat16", "gptq", 8)
    assert gptq_of_eight_bits == tolerance_of("reference", None, "bfloat16", "fp8")
    assert EIGHT_BIT_INTEGERS.most < EIGHT_BIT_FLOATS.most < FOUR_BITS.most


def test_an_adapter_is_allowed_what_its_kernels_round() -> None:
    for noise in (None, 0.03):
        alone = tolerance_of("reference", noise, "bfloat16")
        assert tolerance_of("reference", noise, "bfloat16", is_adapter=True) > 2 * alone
    assert tolerance_of("reference", None, "bfloat16", is_adapter=True) > ADAPTER.most + DTYPES["bfloat16"].most


def test_what_is_not_known_is_taken_for_the_coarser() -> None:
    assert tolerance_of("reference", None, "float8_of_tomorrow") == tolerance_of("reference", None, "bfloat16")
    of_tomorrow = tolerance_of("reference", None, "bfloat16", "quantised_tomorrow")
    assert of_tomorrow == tolerance_of("reference", None, "bfloat16", "awq")


def test_a_mean_over_few_tokens_is_allowed_more() -> None:
    assert over(16, 0.1) > over(50, 0.1) > over(430, 0.1) > 0.1
    assert over(1_000_000, 0.1) == pytest.approx(0.1, rel=0.01)
    assert over(0, 0.1) < 1.0
