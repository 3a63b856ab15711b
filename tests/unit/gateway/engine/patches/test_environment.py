import os
from pathlib import Path

import pytest

from gateway.engine.patches.environment import keep_sockets_in, set_defaults

OURS = ("VLLM_MAX_N_SEQUENCES", "VLLM_MAX_COMPLETION_PROMPTS", "VLLM_MAX_STOP_STRINGS")


def test_vllms_own_bounds_are_drawn_where_ours_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"VLLM_MAX_COMPLETION_PROMPTS": "7"})
    set_defaults(64)
    assert [os.environ[name] for name in OURS] == ["64", "7", "64"], "what somebody has set stays"


def test_sockets_of_engines_that_were_killed_are_gone_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    folder = tmp_path / "engines"
    for _ in range(2):
        keep_sockets_in(folder)
        assert os.environ.pop("VLLM_RPC_BASE_PATH") == str(folder)
        assert list(folder.iterdir()) == []
        (folder / "left").touch()
    os.environ["VLLM_RPC_BASE_PATH"] = "/elsewhere"
    keep_sockets_in(folder)
    assert [path.name for path in folder.iterdir()] == ["left"], "nobody's but whose place it is"
