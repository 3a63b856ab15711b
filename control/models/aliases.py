"""Other names of models: the settings', and those that the gateway was told while it ran."""

from control.errors import Conflict, Invalid
from stepserve.alias_book import AliasBook
from stepserve.setting_sources import SettingsRefused


class Aliases:
    def __init__(self, book: AliasBook) -> None:
        self._book = book

    def model_of(self, name: str) -> str:
        """The model that `name` stands for; a name that is not an alias stands for itself.

        Blocks for a small file. Raises Invalid when that cannot be read.
        """
        self._read()
        alias = self._book.by_name.get(name)
        return alias.model if alias else name

    def check_free(self, model_id: str) -> None:
        """For the id of a new model. Blocks for a small file. Raises Conflict when an alias has that name, Invalid."""
        self._read()
        alias = self._book.by_name.get(model_id)
        if alias is None:
            return
        where = (
            "in the settings (aliases)" if self._book.is_configured(model_id) else f"with DELETE /aliases/{model_id}"
        )
        raise Conflict(
            f"id: {model_id!r} is an alias of {alias.model!r}, and a model of that id could not be asked for:"
            f" remove the alias {where}, or use another id"
        )

    def _read(self) -> None:
        try:
            self._book.read()
        except SettingsRefused as error:
            raise Invalid(str(error)) from error
