"""What an engine is started with on its cards: vLLM's flags, and an environment that only its processes see."""

import os
import threading
import warnings

import pytest

from stepserve.contract import ModelRef, Placement
from stepserve.settings import EngineSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
    from gateway.engine.cards import all_visible, placed, visible
    from gateway.engine.config import serve_flags
    from gateway.engine.patches.environment import set_for_engine

MODEL = ModelRef(id="m", path="/models/m", digest="sha256:aa")
ONE = Placement(devices=["GPU-a"], bytes_each=9, kv_cache_bytes=4_000_000_000, share=0.25)
TWO = ONE.model_copy(update={"devices": ["GPU-a", "GPU-b"]})
SHARED = ONE.model_copy(update={"kv_cache_bytes": None, "share": 0.9})


def card_flags(settings: EngineSettings, placement: Placement | None) -> set[str]:
    names = (
        "--kv-cache-memory-bytes",
        "--gpu-memory-utilization",
        "--tensor-parallel-size",
        "--pipeline-parallel-size",
    )
    return {flag for flag in serve_flags(MODEL, placed(settings, placement)) if flag.startswith(names)}


@pytest.mark.parametrize(
    ("settings", "placement", "flags"),
    [
        ({}, None, set()),
        ({}, ONE, {"--kv-cache-memory-bytes=4000000000", "--gpu-memory-utilization=0.25"}),
        ({}, SHARED, {"--gpu-memory-utilization=0.9"}),
        (
            {},
            TWO,
            {"--kv-cache-memory-bytes=4000000000", "--gpu-memory-utilization=0.25", "--tensor-parallel-size=2"},
        ),
        (
            {"args": {"pipeline_parallel_size": 2}},
            TWO,
            {"--kv-cache-memory-bytes=4000000000", "--gpu-memory-utilization=0.25", "--pipeline-parallel-size=2"},
        ),
        (
            {"args": {"kv_cache_memory_bytes": 7}, "gpu_memory_utilization": 0.6},
            ONE,
            {"--kv-cache-memory-bytes=7", "--gpu-memory-utilization=0.6"},
        ),
    ],
    ids=["no card", "planned", "share", "two cards", "stages", "given"],
)
def test_vllm_is_told_what_it_may_take(
    settings: dict[str, object], placement: Placement | None, flags: set[str]
) -> None:
    assert card_flags(EngineSettings.model_validate(settings), placement) == flags


def test_only_what_is_started_meanwhile_sees_those_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    counted: list[str | None] = []

    def count() -> None:
        with all_visible():
            counted.append(os.environ.get("CUDA_VISIBLE_DEVICES"))

    counting = threading.Thread(target=count)
    with visible(["GPU-a", "MIG-b"]):
        counting.start()
        assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"]) == ("GPU-a,MIG-b", "PCI_BUS_ID")
    counting.join(240)
    assert counted == [None]
    assert "CUDA_DEVICE_ORDER" not in os.environ
    with visible(()):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_cache_that_somebody_set_is_not_overruled_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM would take the variable and not the argument."""
    monkeypatch.setenv("VLLM_COMPUTE_NANS_IN_LOGITS", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "9")
    set_for_engine(EngineSettings(cpu_kv_cache_gib=2))
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "2"
    set_for_engine(EngineSettings(args={"kv_cache_memory_bytes": 5}))
    assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ
