import os

import pytest

from gateway.engine.patches.environment import set_defaults

OURS = ("VLLM_MAX_N_SEQUENCES", "VLLM_MAX_COMPLETION_PROMPTS", "VLLM_MAX_STOP_STRINGS")


def test_vllms_own_bounds_are_drawn_where_ours_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"VLLM_MAX_COMPLETION_PROMPTS": "7"})
    set_defaults(64)
    assert [os.environ[name] for name in OURS] == ["64", "7", "64"], "what somebody has set stays"
