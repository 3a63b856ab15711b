"""keep_alive, and what a model cannot do, in Ollama's words."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.dialects.ollama.abilities import Abilities
from gateway.dialects.ollama.keeping import asked_s
from gateway.dialects.served import Served
from gateway.errors import InvalidRequest
from gateway.serving.naming import Naming
from stepserve.contract import GatewayState, ModelRef, SlotState
from stepserve.settings import EngineSettings


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, None), (0, 0), ("0", 0), ("0s", 0), ("-0", 0), (-1, -1), ("-1", -1), ("-1m", -1), (300, 300),
        ("5m", 300), ("1.5h", 5400), ("1h30m", 5400), ("500ms", 0.5), ("999999999h", -1),
        ("-1h30m", -1), ("0h0m", 0), ("+5m", 300), (".5s", 0.5), ("0.1", 0.1),
    ],
)  # fmt: skip
def test_how_long_a_model_is_to_stay(said: Any, seconds: float | None) -> None:
    assert asked_s(said) == seconds


@pytest.mark.parametrize("said", ["for ever", "5 m", "", "m", "1h-5m", "nan", "1h30", "1e9h", "-", "1" * 5000 + "x"])
def test_what_is_no_duration(said: str) -> None:
    with pytest.raises(InvalidRequest, match="keep_alive"):
        asked_s(said)


@pytest.mark.parametrize(
    ("config", "template", "wish", "refused"),
    [
        ({}, "{{ messages }}", {"thinks": True}, "think: a does not support thinking"),
        ({}, "{% if enable_thinking %}", {"thinks": True}, None),
        ({}, "<think>", {"thinks": True}, None),
        ({}, "", {"images": True}, "images: a does not support images"),
        ({"vision_config": {}}, "", {"images": True}, None),
        ({}, "", {"tools": True}, "tools: a does not support tools"),
        ({}, "", {}, None),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], template: str, wish: dict[str, bool], refused: str | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "chat_template.jinja").write_text(template)
    model = ModelRef(id="a", path=str(tmp_path), digest="sha256:a")
    slot = SlotState(model=model, phase="ready", active=True, in_flight=0, load_duration_s=1, max_model_len_tokens=512)
    state = GatewayState(boot_id="1", pid=1, active=model, switching_to=None, slots=[slot], held=0)
    abilities = Abilities(Served(lambda: state, Naming()), EngineSettings())
    if refused is None:
        asyncio.run(abilities.check("a", **wish))
        return
    with pytest.raises(InvalidRequest, match=refused):
        asyncio.run(abilities.check("a", **wish))
    asyncio.run(abilities.check("elsewhere", **wish))
