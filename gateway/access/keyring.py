"""The gateway's own copy of all keys: no request waits for the database, and none is let in because it is away."""

import asyncio
import contextlib
import hmac
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from gateway.errors import Unauthorized, Unserved
from switchyard.access import ANONYMOUS, SETTINGS_KEY, KeyRecord, KeySet, Scope, digest_of, id_of
from switchyard.access_settings import AccessSettings

log = logging.getLogger(__name__)

_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request comes from. `record` is None for the anonymous caller and for the settings' own key."""

    id: str
    scopes: frozenset[Scope]
    record: KeyRecord | None = None


NOBODY = Caller(ANONYMOUS, frozenset())
EVERYBODY = Caller(ANONYMOUS, frozenset({"admin"}))  # where no key is demanded, everybody may everything
_SETTINGS_CALLER = Caller(SETTINGS_KEY, frozenset({"admin"}))


class Keyring:
    """Filled from a file at start and by control ever after; the file is what a restart without control lives on."""

    def __init__(self, settings: AccessSettings, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._mode = settings.mode
        self._admin_digest = digest_of(settings.admin_key.get_secret_value()) if settings.admin_key else None
        self._file = file
        self._clock = clock
        self._set: KeySet | None = None
        self._callers: dict[str, Caller] = {}
        self._known = asyncio.Event()
        self._load()

    @property
    def version(self) -> tuple[str | None, int]:
        """Epoch and revision of what is here; (None, -1) before anything is."""
        return (self._set.epoch, self._set.revision) if self._set else (None, -1)

    @property
    def demands_keys(self) -> bool:
        """True while a request without a key is refused. Once a key was made it stays so, also when that is revoked."""
        if self._mode != "auto":
            return self._mode == "keys"
        return self._admin_digest is not None or self._set is None or bool(self._set.keys)

    @property
    def lets_others_in(self) -> bool:
        """Whether other machines may reach the server: keys are demanded, or somebody has said that none is wanted.

        Not while the keys are unknown: there may be none.
        """
        if self._mode != "auto" or self._admin_digest is not None:
            return True
        return self._set is not None and bool(self._set.keys)

    @property
    def is_known(self) -> bool:
        """Whether it is known here if there are keys, as far as that matters."""
        return self._known.is_set() or self._mode != "auto" or self._admin_digest is not None

    async def known(self, timeout_s: float) -> None:
        """Waits until there are keys here, or it is known that there are none; gives up quietly after `timeout_s`."""
        if not self.is_known:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._known.wait(), timeout_s)

    def put(self, keys: KeySet) -> bool:
        """Takes a newer set over; an older one of the same database, which overtook nothing, is left. True if taken."""
        here = self._set
        if here is not None and here.epoch == keys.epoch and keys.revision <= here.revision:
            return False
        self._take(keys)
        self._save(keys)
        return True

    def caller(self, token: str | None) -> Caller:
        """Whom a key belongs to. Raises Unauthorized, which says why; Unserved while the keys are not known yet."""
        if not self.demands_keys:
            return EVERYBODY
        if self._set is None and self._mode == "auto" and self._admin_digest is None:
            raise Unserved("The keys are not known yet: the control process is starting.", 1.0)
        if token is None:
            raise Unauthorized("A key is needed: send it as `Authorization: Bearer …` or `X-API-Key: …`.")
        given = digest_of(token)
        if self._admin_digest is not None and hmac.compare_digest(given, self._admin_digest):
            return _SETTINGS_CALLER
        if self._set is None:
            raise Unserved("The keys are not known yet: the control process is starting.", 1.0)
        key_id = id_of(token)
        if key_id is None:
            raise Unauthorized("The key is malformed; a whole one looks like sy_… and has 57 characters.")
        caller = self._callers.get(key_id)
        record = caller.record if caller else None
        # Compared even for an id that is not there, so that the time tells nothing.
        if not hmac.compare_digest(given, record.digest if record else _NO_DIGEST) or caller is None or record is None:
            raise Unauthorized("The key is not known.")
        if record.revoked:
            raise Unauthorized(f"The key {key_id} is revoked.")
        if record.expires_at is not None and record.expires_at <= self._clock():
            raise Unauthorized(f"The key {key_id} is expired.")
        return caller

    def _take(self, keys: KeySet) -> None:
        self._set = keys
        self._known.set()
        self._callers = {record.id: Caller(record.id, frozenset(record.scopes), record) for record in keys.keys}

    def _load(self) -> None:
        try:
            self._take(KeySet.model_validate_json(self._file.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            log.error("the copy of the keys in %s cannot be used, so control is waited for: %s", self._file, error)

    def _save(self, keys: KeySet) -> None:
        """Written aside and renamed; mkstemp makes it readable for this user alone."""
        try:
            handle, aside = tempfile.mkstemp(dir=self._file.parent, prefix=f".{self._file.name}.")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(keys.model_dump_json())
            Path(aside).replace(self._file)
        except OSError as error:
            log.error("the copy of the keys in %s could not be written: %s", self._file, error)
