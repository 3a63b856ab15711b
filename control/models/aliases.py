"""Other names of models, from the settings."""

from collections.abc import Mapping

from stepserve.settings import Alias


class Aliases:
    def __init__(self, by_name: Mapping[str, Alias]) -> None:
        self._by_name = by_name

    def model_of(self, name: str) -> str:
        """The model that `name` stands for; a name that is no alias stands for itself."""
        alias = self._by_name.get(name)
        return alias.model if alias else name
