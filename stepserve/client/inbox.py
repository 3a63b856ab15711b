"""The trainer's inbox: shards of training data, each given to one trainer, downloaded, proven and acknowledged."""

import hashlib
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tenacity import Retrying

from stepserve.client.blocking import BlockingClient
from stepserve.client.errors import BadShard, StepserveError
from stepserve.client.results import Claim
from stepserve.client.wire import retry_rules

CLAIM_S = 3600.0
POLL_S = 2.0
RETRY_S = 120.0
_TRIES = 3


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A shard that is here, whole. Without a `folder` of the caller's the file is gone after the loop's next turn."""

    claim: Claim
    path: Path

    @property
    def name(self) -> str:
        return self.claim.name

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Its records."""
        with self.path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield json.loads(line)


def shards(
    client: BlockingClient,
    *,
    folder: Path | str | None = None,
    job_id: str | None = None,
    claimed_by: str | None = None,
    claim_s: float = CLAIM_S,
    wait_s: float = 0.0,
) -> Iterator[ShardFile]:
    """Every shard that nobody has, one after the other; each is acknowledged when the next one is asked for.

    A loop that is left in the middle (an exception, `break`) gives its shard back, for whoever comes next; one whose
    process dies does so after `claim_s`. The loop ends when there was no shard for `wait_s`.

    Raises BadShard when a shard does not arrive as its checksum says, also at the third try, and every StepserveError.
    """
    who = claimed_by or socket.gethostname()
    idle_since_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stepserve-shards-") as temporary:
        target = Path(folder) if folder is not None else Path(temporary)
        target.mkdir(parents=True, exist_ok=True)
        while True:
            claim = client.claim_shard(who, claim_s, job_id)
            if claim is None:
                if time.monotonic() - idle_since_s >= wait_s:
                    return
                time.sleep(min(POLL_S, wait_s))
                continue
            yield from _one(client, claim, target, keep=folder is not None)
            idle_since_s = time.monotonic()


def _one(client: BlockingClient, claim: Claim, folder: Path, *, keep: bool) -> Iterator[ShardFile]:
    used = False
    path = folder / Path(claim.name).name
    try:
        download(client, claim, path)
        yield ShardFile(claim, path)
        used = True
        client.acknowledge_shard(claim.name, claim.claim_id)
    finally:
        if not used:
            _give_back(client, claim)
        if not keep:
            path.unlink(missing_ok=True)


def download(client: BlockingClient, claim: Claim, path: Path) -> None:
    """Into a file beside it that takes its name once it is whole; a broken download goes on where it broke.

    Raises BadShard.
    """
    aside = path.with_name(f".{path.name}.partial")
    aside.unlink(missing_ok=True)
    for _ in range(_TRIES):
        for attempt in Retrying(**retry_rules(repeatable=True, retry_s=RETRY_S)):
            with attempt:
                _fetch(client, claim, aside)
        with aside.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if claim.sha256 is None or found == claim.sha256:
            aside.replace(path)
            return
        aside.unlink()
    raise BadShard(f"{claim.name} arrived with the sha256 {found}, not {claim.sha256}, {_TRIES} times.")


def _fetch(client: BlockingClient, claim: Claim, aside: Path) -> None:
    there = aside.stat().st_size if aside.exists() else 0
    if there and there == claim.size_bytes:
        return
    headers = {"range": f"bytes={there}-"} if there else {}
    if there and claim.sha256 is not None:
        headers["if-range"] = f'"{claim.sha256}"'  # else all of it is sent again
    with (
        client.streaming("GET", f"/shards/{quote(claim.name, safe='')}", headers=headers) as answer,
        aside.open("ab" if answer.status_code == 206 else "wb") as stream,
    ):
        for piece in answer.iter_bytes():
            stream.write(piece)


def _give_back(client: BlockingClient, claim: Claim) -> None:
    """Best effort: the loop ends for a reason of its own, and the claim runs out anyway."""
    try:
        client.give_back_shard(claim.name, claim.claim_id, "the trainer did not finish it")
    except StepserveError:
        return
