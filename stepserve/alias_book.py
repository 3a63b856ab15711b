"""Aliases: those of the settings, and those that were set while the server ran, which lie in a file."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from stepserve.contract import ACTIVE_ALIAS
from stepserve.durable import write_whole
from stepserve.setting_sources import SettingsRefused
from stepserve.settings import Alias

_LONGEST_NAME = 300
_FILE = TypeAdapter(dict[str, Alias])


class AliasRefused(Exception):
    """Why an alias cannot be so; the text is for whoever asked for it. `is_configured`: the settings have the say."""

    def __init__(self, reason: str, *, is_configured: bool = False) -> None:
        super().__init__(reason)
        self.is_configured = is_configured


class AliasBook:
    """`by_name` changes in place, so that whoever holds it sees what is so now. One process writes the file."""

    def __init__(self, configured: Mapping[str, Alias], file: Path) -> None:
        """Reads the file. Raises SettingsRefused when it is not what this wrote."""
        self._configured = configured
        self._file = file
        self._own: dict[str, Alias] = {}
        self.by_name: dict[str, Alias] = {}
        self.read()

    def configure(self, configured: Mapping[str, Alias]) -> None:
        """Other settings hold from now on. One of the file's that they have too is hidden by theirs."""
        self._configured = configured
        self._merge()

    def read(self) -> None:
        """Blocks. Raises SettingsRefused."""
        try:
            self._own = _FILE.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            self._own = {}
        except (OSError, ValidationError) as error:
            raise SettingsRefused(f"{self._file} cannot be read: {error}") from error
        self._merge()

    def is_configured(self, name: str) -> bool:
        return name in self._configured

    def put(self, name: str, alias: Alias) -> bool:
        """Whether it is new. Blocks. Raises AliasRefused, OSError; nothing is changed then."""
        self._check_own(name)
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise AliasRefused(f"name: 1 to {_LONGEST_NAME} printable characters are taken")
        if name == ACTIVE_ALIAS:
            raise AliasRefused(f"name: {ACTIVE_ALIAS!r} always means the active model and cannot be an alias")
        if alias.model == name:
            raise AliasRefused(f"name: {name!r} cannot stand for itself")
        if alias.model in self.by_name:
            raise AliasRefused(f"model: {alias.model!r} is an alias itself; name the model")
        pointing = next((other for other, its in self.by_name.items() if its.model == name and other != name), None)
        if pointing is not None:
            raise AliasRefused(f"name: the alias {pointing!r} stands for a model called {name!r}")
        is_new = name not in self._own
        self._keep({**self._own, name: alias})
        return is_new

    def remove(self, name: str) -> None:
        """Blocks. Raises KeyError where there is none, AliasRefused, OSError."""
        self._check_own(name)
        own = dict(self._own)
        del own[name]
        self._keep(own)

    def _check_own(self, name: str) -> None:
        if name in self._configured:
            raise AliasRefused(
                f"name: {name!r} is set in the settings (aliases), and is changed there", is_configured=True
            )

    def _keep(self, own: dict[str, Alias]) -> None:
        write_whole(self._file, _FILE.dump_json(own, exclude_none=True, indent=2))
        self._own = own
        self._merge()

    def _merge(self) -> None:
        merged = {**self._own, **self._configured}
        for gone in self.by_name.keys() - merged.keys():
            del self.by_name[gone]
        self.by_name.update(merged)
