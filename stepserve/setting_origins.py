"""Where each setting has its value from, and errors that say so."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource, PydanticBaseSettingsSource
from pydantic_settings import SettingsError as Unparsable

from stepserve.setting_sources import (
    OLDER_NAMES,
    PREFIX,
    ConfigFile,
    HostsFile,
    SettingsRefused,
    did_you_mean,
    unknown_variables,
)
from stepserve.settings import ALL_PATCHES, Settings

Place = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One value as it is shown: secrets as asterisks. `origin` is `default`, a variable's name, or a file's."""

    name: str
    value: Any
    origin: str


def load() -> Settings:
    """The settings of this process. Raises SettingsRefused: a sentence for each that is wrong, with its origin."""
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsRefused(". ".join(_sentence(each) for each in error.errors())) from error
    except Unparsable as error:
        name = next((f"{PREFIX}{known.upper()}" for known in Settings.model_fields if f'"{known}"' in str(error)), "")
        raise SettingsRefused(f"{name}: no valid JSON: {error.__cause__}") from error
    if unknown := unknown_variables(Settings.model_fields):
        raise SettingsRefused(". ".join(unknown))
    return settings


def redacted(settings: Settings) -> dict[str, Any]:
    """As JSON values; whatever is a secret by its type is asterisks."""
    return settings.model_dump(mode="json")


def origins(settings: Settings) -> list[Setting]:
    """Every value with where it comes from, in the tree's order."""
    sources = [(source, source()) for source in _sources()]
    return [
        Setting(".".join(place), value, _origin(place, sources)) for place, value in _leaves(redacted(settings), ())
    ]


def _sources() -> list[PydanticBaseSettingsSource]:
    """The last word first."""
    unused = EnvSettingsSource(Settings)
    return list(Settings.settings_customise_sources(Settings, *[unused] * 4)[1:])


def _origin(place: Place, sources: list[tuple[PydanticBaseSettingsSource, dict[str, Any]]]) -> str:
    for source, values in sources:
        if _has(values, place):
            return _name_of(source, place)
    return "default"


def _name_of(source: PydanticBaseSettingsSource, place: Place) -> str:
    match source:
        case EnvSettingsSource():
            return PREFIX + "__".join(place).upper()
        case ConfigFile() | HostsFile():
            return str(source.path)
        case _:
            return next((older for older, name in OLDER_NAMES.items() if name == place[0]), "default")


def _has(values: Any, place: Place) -> bool:
    for key in place:
        if not isinstance(values, Mapping):
            return True  # a whole group or list given as one value
        if key not in values:
            return place[:2] == ("engine", "patches") and not ALL_PATCHES.isdisjoint(values)
        values = values[key]
    return True


def _leaves(values: Mapping[str, Any], above: Place) -> Iterator[tuple[Place, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _sentence(error: Any) -> str:
    place = tuple(str(part) for part in error["loc"])
    if not place:
        return str(error["msg"]).removeprefix("Value error, ")
    sources = [(source, source()) for source in _sources()]
    origin = _origin(place, sources)
    name = ".".join(place)
    shown = origin if origin.startswith(PREFIX) or origin in OLDER_NAMES else f"{name} in {origin}"
    if error["type"] == "extra_forbidden":
        return f"{shown}: there is no such setting{did_you_mean(place[-1], _known_beside(place))}"
    return f"{shown}: {str(error['msg']).removeprefix('Value error, ')}"


def _known_beside(place: Place) -> Mapping[str, object]:
    """The settings of the group that `place` lies in."""
    group: type[BaseModel] = Settings
    for key in place[:-1]:
        field = group.model_fields.get(key)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return {}
        group = inner
    return group.model_fields
