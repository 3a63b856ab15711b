"""Other names of models: the settings', and those that the gateway was told while it ran."""

from control.errors import Invalid
from stepserve.alias_book import AliasBook
from stepserve.setting_sources import SettingsRefused


class Aliases:
    def __init__(self, book: AliasBook) -> None:
        self._book = book

    def model_of(self, name: str) -> str:
        """The model that `name` stands for; a name that is no alias stands for itself. Blocks for a small file.

        Raises Invalid when that cannot be read.
        """
        try:
            self._book.read()
        except SettingsRefused as error:
            raise Invalid(str(error)) from error
        alias = self._book.by_name.get(name)
        return alias.model if alias else name
