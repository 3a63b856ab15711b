from pathlib import Path

import pytest
from pydantic import ValidationError

from switchyard.settings import Settings


def test_defaults_bind_loopback_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFERENCE_HOST", raising=False)
    monkeypatch.delenv("INFERENCE_PORT", raising=False)
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8765)


def test_the_environment_is_honoured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INFERENCE_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("INFERENCE_MODELS_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("INFERENCE_ENGINE__MAX_NUM_SEQS", "8")
    settings = Settings()
    assert settings.layout.database == tmp_path / "db.sqlite"
    assert settings.layout.models == tmp_path / "elsewhere"
    assert settings.engine.max_num_seqs == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "http"),
        ("ENGINE__MAX_NUM_SEQ", "8"),
        ("LOG_LEVEL", "loud"),
        ("HOLD_TIMEOUT_S", "0"),
        ("BATCH_WINDOW_ITEMS", "64"),
    ],
)
def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"INFERENCE_{name}", value)
    with pytest.raises(ValidationError):
        Settings()
