import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from stepserve.setting_origins import load, origins, redacted
from stepserve.setting_sources import SettingsRefused
from stepserve.settings import Settings

EXAMPLE = Path(__file__).resolve().parents[3] / "config" / "stepserve.toml.example"
OLDER_NAMES = ("HOST", "PORT", "MODEL_PATH", "LOAD_IN_4BIT", "LOAD_IN_8BIT", "MAX_CACHE_MODELS", "MODEL_LOAD_COOLDOWN")

ConfigFile = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("INFERENCE_")]:
        monkeypatch.delenv(name)
    for name in OLDER_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INFERENCE_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config_file(tmp_path: Path) -> ConfigFile:
    def write(text: str) -> Path:
        path = tmp_path / "config" / "stepserve.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_defaults_bind_loopback_alone() -> None:
    settings = load()
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
        ("HANG_TIMEOUT_S", "3"),
        ("TURN_WAIT_S", "-1"),
        ("MODEL_KEEP_ALIVE", "soon"),
        ("PRELOAD", '[""]'),
        ("BATCH_WINDOW_ITEMS", "64"),
        ("POWER__PROFILE", "loud"),
        ("POWER__SCHEDULE", '[{"start": "22:00", "end": "7:00", "profile": "quiet"}]'),
        ("POWER__SCHEDULE", '[{"start": "22:00", "end": "22:00", "profile": "quiet"}]'),
    ],
)
def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"INFERENCE_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_what_is_nearer_wins(monkeypatch: pytest.MonkeyPatch, config_file: ConfigFile) -> None:
    path = config_file('port = 1111\nhost = "1.1.1.1"\nlog_level = "debug"\n[engine]\nseed = 7\nmax_num_seqs = 2\n')
    monkeypatch.setenv("HOST", "2.2.2.2")
    monkeypatch.setenv("PORT", "2222")
    monkeypatch.setenv("INFERENCE_PORT", "3333")
    monkeypatch.setenv("INFERENCE_ENGINE__SEED", "9")
    settings = load()
    assert (settings.log_level, settings.host, settings.port) == ("debug", "2.2.2.2", 3333)
    assert (settings.engine.seed, settings.engine.max_num_seqs) == (9, 2)
    found = {each.name: each.origin for each in origins(settings)}
    assert found["log_level"] == found["engine.max_num_seqs"] == str(path)
    assert (found["host"], found["port"]) == ("HOST", "INFERENCE_PORT")
    assert found["engine.seed"] == "INFERENCE_ENGINE__SEED"
    assert found["job_lease_s"] == "default"


def test_hosts_json_stands_between_the_file_and_the_environment(
    monkeypatch: pytest.MonkeyPatch, config_file: ConfigFile
) -> None:
    path = config_file('port = 1111\nhost = "1.1.1.1"\n')
    hosts = path.with_name("hosts.json")
    hosts.write_text('{"inference": {"host": "2.2.2.2", "port": 2222, "ssh_user": "llm"}}')
    monkeypatch.setenv("PORT", "3333")
    settings = load()
    assert (settings.host, settings.port) == ("2.2.2.2", 3333)
    assert {each.name: each.origin for each in origins(settings)}["host"] == str(hosts)
    hosts.write_text('{"inference": {"prot": 1}}')
    with pytest.raises(SettingsRefused, match=r"hosts\.json, line 1: inference\.prot: there is no such key"):
        load()


def test_a_keep_alive_is_a_number_or_a_duration(monkeypatch: pytest.MonkeyPatch, config_file: ConfigFile) -> None:
    assert load().model_keep_alive is None
    config_file("model_keep_alive = -1")
    assert load().model_keep_alive == -1
    monkeypatch.setenv("INFERENCE_MODEL_KEEP_ALIVE", "1h30m")
    assert load().model_keep_alive == 5400


def test_no_turn_is_waited_for_until_the_wait_is_refused() -> None:
    assert Settings().longest_turn_wait_s == 30
    assert Settings(hold_timeout_s=20).longest_turn_wait_s == 10


def test_what_cannot_be_loaded_at_the_start_is_refused_there(config_file: ConfigFile) -> None:
    config_file('preload = ["a", "b", "c"]')
    with pytest.raises(SettingsRefused, match="preload names 3 models and max_loaded_models is 2"):
        load()
    config_file('preload = ["a"]\n[fleet]\ncontrol = "http://head:8765"')
    with pytest.raises(SettingsRefused, match="a member of a fleet loads what is committed there"):
        load()


def test_names_from_before_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"MODEL_PATH": "/m", "LOAD_IN_4BIT": "true", "MAX_CACHE_MODELS": "3", "MODEL_LOAD_COOLDOWN": "5"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.model_path == Path("/m")
    assert settings.load_in_4bit
    assert (settings.max_loaded_models, settings.model_load_cooldown_s) == (3, 5.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "prot in {path}: there is no such setting (did you mean port?)"),
        (
            "[engine]\nmax_num_seq = 1",
            "engine.max_num_seq in {path}: there is no such setting (did you mean max_num_seqs?)",
        ),
        ("port = 0", "port in {path}: Input should be greater than or equal to 1"),
        ("port = x", "{path}: Invalid value (at line 1, column 8)"),
        ("[power.profiles.mine]\nwatts = 1", "power.profiles.mine.watts in {path}: there is no such setting"),
    ],
)
def test_a_wrong_line_in_the_file_is_named(config_file: ConfigFile, text: str, said: str) -> None:
    path = config_file(text)
    with pytest.raises(SettingsRefused) as refused:
        load()
    assert str(refused.value).startswith(said.format(path=path))


def test_a_variable_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_MAX_HELD_REQUEST", "1")
    with pytest.raises(
        SettingsRefused, match=r"INFERENCE_MAX_HELD_REQUEST: .*did you mean INFERENCE_MAX_HELD_REQUESTS"
    ):
        load()
    monkeypatch.delenv("INFERENCE_MAX_HELD_REQUEST")
    monkeypatch.setenv("INFERENCE_SSH_USER", "somebody")  # of the scripts that call the server
    load()


def test_broken_json_in_a_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_MAX_CONCURRENT_BY_TYPE", "{")
    with pytest.raises(SettingsRefused, match="INFERENCE_MAX_CONCURRENT_BY_TYPE: no valid JSON"):
        load()


def test_no_flash_attention_is_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().engine_to_start.attention_backend is None
    monkeypatch.setenv("INFERENCE_FLASH_ATTENTION", "false")
    assert load().engine_to_start.attention_backend == "TRITON_ATTN"
    monkeypatch.setenv("INFERENCE_ENGINE__ATTENTION_BACKEND", "FLASHINFER")
    assert load().engine_to_start.attention_backend == "FLASHINFER"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_MODEL_PATH", "")
    monkeypatch.setenv("PORT", "")
    settings = load()
    assert settings.model_path is None
    assert settings.port == 8765


def test_a_named_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_CONFIG", "/nowhere/stepserve.toml")
    with pytest.raises(SettingsRefused, match=r"there is no file /nowhere/stepserve\.toml"):
        load()


def test_the_example_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_CONFIG", str(EXAMPLE))
    profiles = load().power.profiles
    assert list(profiles) == ["quiet", "normal", "max", "night"]
    assert (profiles["quiet"].power_limit_w, profiles["max"].power_limit_w) == (200, 350)


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_DATABASE_URL", "postgresql+asyncpg://u:hunter2@h/d")
    settings = load()
    assert isinstance(settings.database_url, SecretStr)
    assert "hunter2" not in str(redacted(settings)) + str(origins(settings))


def test_a_wrong_secret_is_refused_without_being_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_DATABASE_URL", "mysql://u:hunter2@h/d")
    with pytest.raises(SettingsRefused) as refused:
        load()
    assert "hunter2" not in str(refused.value)
