"""What `stepserve up` says once the server is ready."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from stepserve.access_settings import AccessSettings
from stepserve.banner import Announcer
from stepserve.settings import Settings


def said(base: Path, model: str, **access: object) -> str:
    settings = Settings(base_dir=base, host="0.0.0.0").model_copy(update={"access": AccessSettings(**access)})
    return Announcer(settings).text(model, 3.0)


@pytest.mark.parametrize("access", [{"admin_key": SecretStr("k" * 48)}, {"mode": "keys"}])
def test_where_keys_are_demanded_the_commands_have_one(tmp_path: Path, access: dict[str, object]) -> None:
    text = said(tmp_path, "my-model", **access)
    assert text.count("curl") == text.count("Bearer $INFERENCE_API_KEY") == 3
    assert "k" * 48 not in text


def test_without_keys_the_commands_have_none_and_it_says_who_can_connect(tmp_path: Path) -> None:
    text = said(tmp_path, "my-model")
    assert "INFERENCE_API_KEY" not in text
    assert "only this machine can connect" in text


def test_a_model_that_is_not_known_is_not_named(tmp_path: Path) -> None:
    assert "Active model" not in said(tmp_path, "", mode="keys")
    assert "Active model          my-model" in said(tmp_path, "my-model", mode="keys")
