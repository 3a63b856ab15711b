"""The filters that the settings name: the one that comes along, and those of other packages."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from gateway.filtering.filter import Filter
from gateway.filtering.patterns import patterns
from stepserve.readable import readable
from stepserve.settings import FilterSetting

GROUP = "stepserve.filters"

Make = Callable[[Mapping[str, Any]], Filter]
_OURS: dict[str, Make] = {"patterns": patterns}


class FilterRefused(Exception):
    """A filter of the settings that cannot be used; the text names it."""


def filters_of(settings: Sequence[FilterSetting]) -> list[Filter]:
    """Raises FilterRefused."""
    return [_made(number, setting) for number, setting in enumerate(settings)]


def _made(number: int, setting: FilterSetting) -> Filter:
    place = f"filters.{number} ({setting.use})"
    make = _OURS.get(setting.use) or _loaded(place, setting.use)
    try:
        made = make(setting.options)
    except ValidationError as error:
        raise FilterRefused(f"{place}: options: {readable(error.errors(include_url=False))}") from error
    except (ValueError, TypeError) as error:
        raise FilterRefused(f"{place}: options: {error}") from error
    if not all(callable(getattr(made, name, None)) for name in ("of_request", "of_answer")):
        raise FilterRefused(f"{place}: what it gives is not a gateway.filtering.filter.Filter")
    return made


def _loaded(place: str, name: str) -> Make:
    point = next(iter(entry_points(group=GROUP, name=name)), None)
    if point is None:
        names = sorted({*_OURS, *entry_points(group=GROUP).names})
        raise FilterRefused(f"{place}: is not installed; there are {', '.join(names)}")
    try:
        make: Make = point.load()
    except (ImportError, AttributeError) as error:
        raise FilterRefused(f"{place}: {point.value} cannot be imported: {error}") from error
    return make
