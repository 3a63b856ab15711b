"""Where settings come from beside INFERENCE_… variables: the config file, and names from before those variables."""

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from stepserve import hosts

PREFIX = "INFERENCE_"
CONFIG_VARIABLE = "INFERENCE_CONFIG"
HOSTS_VARIABLE = "INFERENCE_HOSTS_FILE"
CONFIG_NAME = Path("config") / "stepserve.toml"
FORMER_CONFIG_NAME = Path("config") / "switchyard.toml"  # before the project was called Stepserve

# Names that scripts already use, and the settings they stand for. An INFERENCE_… variable has the last word.
OLDER_NAMES = {
    "MODEL_PATH": "model_path",
    "HOST": "host",
    "PORT": "port",
    "LOAD_IN_4BIT": "load_in_4bit",
    "LOAD_IN_8BIT": "load_in_8bit",
    "MAX_CACHE_MODELS": "max_loaded_models",
    "MODEL_LOAD_COOLDOWN": "model_load_cooldown_s",
    "MODEL_Q4_THRESHOLD_BYTES": "model_q4_threshold_bytes",
    "MAX_CONCURRENT_PULLS": "max_concurrent_pulls",
    "HF_TOKEN": "hf_token",
}

# Of whoever calls the server; they may stand in the same environment.
CLIENT_VARIABLES = frozenset({"INFERENCE_SSH_USER", "INFERENCE_API_KEY", "INFERENCE_URL"})


class SettingsRefused(Exception):
    """The settings cannot be used; the text names each wrong one and where it was set."""


def config_file(environment: Mapping[str, str] | None = None) -> Path | None:
    """The file that INFERENCE_CONFIG names, else config/stepserve.toml in the working directory or the base directory.

    Raises SettingsRefused when the named one is not there, or where only one under its former name is: settings that
    were meant to hold are never passed over in silence.
    """
    environment = os.environ if environment is None else environment
    if named := environment.get(CONFIG_VARIABLE):
        path = Path(named).expanduser()
        if not path.is_file():
            raise SettingsRefused(f"{CONFIG_VARIABLE}: there is no file {path}")
        return path
    base = Path(environment.get("INFERENCE_BASE_DIR") or "~/llm").expanduser()
    for folder in (Path.cwd(), base):
        if (path := folder / CONFIG_NAME).is_file():
            return path
        if (former := folder / FORMER_CONFIG_NAME).is_file():
            raise SettingsRefused(f"{former}: the project is now called Stepserve; rename the file to {path.name}")
    return None


def unknown_variables(known: Mapping[str, object], environment: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for each INFERENCE_… variable that means nothing. `known` has the names of all settings."""
    sentences = []
    for name in sorted(os.environ if environment is None else environment):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper == CONFIG_VARIABLE or upper in CLIENT_VARIABLES:
            continue
        setting = upper.removeprefix(PREFIX).lower().split("__")[0]
        if setting not in known:
            sentences.append(f"{name}: there is no such setting{did_you_mean(setting, known, PREFIX)}")
    return sentences


def did_you_mean(name: str, known: Mapping[str, object], prefix: str = "") -> str:
    close = get_close_matches(name, known, n=1)
    if not close:
        return ""
    return f" (did you mean {prefix}{close[0].upper() if prefix else close[0]}?)"


class _DictSource(PydanticBaseSettingsSource):
    """A source that knows all its values at once."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError("these sources are read whole")


class ConfigFile(_DictSource):
    """A TOML file whose keys are the settings' names; groups are tables."""

    def __init__(self, settings: type[BaseSettings], path: Path | None) -> None:
        super().__init__(settings)
        self.path = path

    def __call__(self) -> dict[str, Any]:
        """Raises SettingsRefused for what is no TOML or cannot be read."""
        if self.path is None:
            return {}
        try:
            return tomllib.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsRefused(f"{self.path}: {error}") from error


class HostsFile(_DictSource):
    """What hosts.json says of the inference machine: where it listens and keeps things."""

    NAMES = ("host", "port", "models_dir", "base_dir")

    def __init__(self, settings: type[BaseSettings], named: str | None) -> None:
        super().__init__(settings)
        self._named = named

    @property
    def path(self) -> Path | None:
        """Raises SettingsRefused."""
        base = Path(os.environ.get("INFERENCE_BASE_DIR") or "~/llm").expanduser()
        try:
            return hosts.find(Path(self._named) if self._named else None, base)
        except hosts.HostsRefused as error:
            raise SettingsRefused(str(error)) from error

    def __call__(self) -> dict[str, Any]:
        """Raises SettingsRefused."""
        try:
            machine = hosts.load(self.path, environment={}).inference
        except hosts.HostsRefused as error:
            raise SettingsRefused(str(error)) from error
        said = {name: getattr(machine, name) for name in self.NAMES}
        return {name: value for name, value in said.items() if value is not None}


class OlderNames(_DictSource):
    """Variables without the prefix; an empty one counts as not set."""

    def __call__(self) -> dict[str, Any]:
        return {setting: os.environ[name] for name, setting in OLDER_NAMES.items() if os.environ.get(name)}
