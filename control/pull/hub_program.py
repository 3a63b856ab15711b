"""`python -m control.pull.hub_program`: takes one order on stdin, speaks with the hub, answers on stdout.

A process of its own, so that a pull can be stopped at any byte, and so that the hub's library lives outside control. A
file is written to `<name>.partial` and gets its name once its hash is right, so a killed pull goes on where it was.
"""

import contextlib
import errno
import fcntl
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NoReturn

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url, set_client_factory
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata, http_get
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_request_event_hook
from setproctitle import setproctitle

from control.checkpoints.adapter_kinds import ADAPTER_CONFIG
from control.pull.files import PARTIAL, has_content, present_bytes
from control.pull.hub_client import HubTransport, Watch, watched
from control.pull.orders import Failure, FailureKind, FetchOrder, Finished, Listing, ListOrder, Order, Progress
from control.pull.selection import RemoteFile
from stepserve.durable import sync_open
from stepserve.own_files import is_own, open_own
from stepserve.process import follow_parent

LOCK = ".lock"
FILES_AT_ONCE = 4
PROGRESS_INTERVAL_S = 0.5
PIECE_BYTES = 256 * 1024  # the library's 10 MiB would be lost at each kill, and progress would jump
LONGEST_CONFIG_BYTES = 10_000_000

_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO, errno.ELOOP})

_stdout_lock = threading.Lock()


class Refused(Exception):
    """`kind` and the text are what control is told."""

    def __init__(self, kind: FailureKind, text: str) -> None:
        super().__init__(text)
        self.kind: FailureKind = kind


class CappedFile(io.FileIO):
    """Takes no more bytes than were promised, into a file that no link leads to. Raises Refused, OSError."""

    def __init__(self, path: Path, file: RemoteFile) -> None:
        flags = os.O_RDWR | os.O_CREAT
        super().__init__(path, "r+", opener=lambda name, _: open_own(Path(name), flags))
        self._promised = file
        self.seek(0, os.SEEK_END)

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if self.tell() + len(view) > self._promised.size_bytes:
            promised = self._promised
            raise Refused(
                "corrupt", f"{promised.name}: the hub sends more than the {promised.size_bytes} bytes it promised"
            )
        written = 0
        while written < len(view):
            written += super().write(view[written:])
        return written


class CappedBytes(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > LONGEST_CONFIG_BYTES:
            raise Refused("corrupt", f"a configuration has more than {LONGEST_CONFIG_BYTES} bytes")
        return super().write(data)


def main() -> int:
    setproctitle("stepserve: pull")
    follow_parent(signal.SIGKILL)
    constants.DOWNLOAD_CHUNK_SIZE = PIECE_BYTES
    order = Order.model_validate_json(sys.stdin.readline()).order
    watch = Watch(constants.HF_HUB_DOWNLOAD_TIMEOUT, brief=isinstance(order, ListOrder))
    set_client_factory(lambda: client_of(order.hosts, watch))
    try:
        with (
            translated(order.repository),
            watched(watch, lambda complaint: give_up(Refused("away", f"{order.repository}: the hub: {complaint}"))),
        ):
            if isinstance(order, ListOrder):
                say(listing(order))
            else:
                fetch_all(order)
                say(Finished())
    except Refused as refusal:
        give_up(refusal)
    return 0


def client_of(hosts: list[str], watch: Watch) -> httpx2.Client:
    return httpx2.Client(
        transport=HubTransport(constants.ENDPOINT, hosts, watch),
        event_hooks={"request": [hf_request_event_hook]},
        follow_redirects=True,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
    )


def give_up(refusal: Refused) -> NoReturn:
    say(Failure(kind=refusal.kind, text=str(refusal)))
    os._exit(1)  # other files may be on their way; what they have is on disk


def say(line: Listing | Progress | Finished | Failure) -> None:
    with _stdout_lock:
        sys.stdout.write(json.dumps({"said": line.model_dump(mode="json")}) + "\n")
        sys.stdout.flush()


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns whatever the hub's library and the disk raise into Refused, in words that name `what`."""
    try:
        yield
    except GatedRepoError as error:
        raise Refused(
            "refused",
            f"{what} is gated: accept its conditions on the hub and set INFERENCE_HF_TOKEN to a token that may",
        ) from error
    except RevisionNotFoundError as error:
        raise Refused("refused", f"{what} has no such revision") from error
    except RepositoryNotFoundError as error:
        raise Refused(
            "refused", f"{what} is not on the hub, or is private and INFERENCE_HF_TOKEN does not grant access to it"
        ) from error
    except DisabledRepoError as error:
        raise Refused("refused", f"{what} is disabled on the hub") from error
    except EntryNotFoundError as error:
        raise Refused("refused", f"{what} is not there, though the hub lists it") from error
    except OfflineModeIsEnabled as error:
        raise Refused("refused", "HF_HUB_OFFLINE is set, so nothing can be pulled") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        passing = status in _PASSING_STATUS
        raise Refused("away" if passing else "refused", f"{what}: the hub answers {status}") from error
    except httpx2.TimeoutException as error:
        raise Refused("away", f"{what}: the hub does not answer, or stalls") from error
    except (httpx2.TransportError, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
        raise Refused("away", f"{what}: the connection to the hub fails: {error or type(error).__name__}") from error
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise Refused("disk", f"{what} cannot be written: {error.strerror}") from error
        raise Refused("corrupt", f"{what}: {str(error).splitlines()[0]}") from error
    except (ValueError, RecursionError) as error:
        raise Refused("refused", f"{what}: the hub's answer makes no sense: {str(error).splitlines()[0]}") from error


def listing(order: ListOrder) -> Listing:
    api = HfApi(token=order.token)
    found = api.model_info(order.repository, revision=order.revision, files_metadata=True, timeout=order.timeout_s)
    if not found.sha:
        raise ValueError("it names no commit")
    files = [
        RemoteFile(
            name=sibling.rfilename,
            size_bytes=size_of(order, found.sha, sibling.rfilename) if sibling.size is None else sibling.size,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            git_sha1=None if sibling.lfs else sibling.blob_id,
        )
        for sibling in found.siblings or ()
    ]
    objects = {
        file.name: read_object(order, found.sha, file) for file in files if file.name in ("config.json", ADAPTER_CONFIG)
    }
    return Listing(
        commit=found.sha, files=files, config=objects.get("config.json"), adapter_config=objects.get(ADAPTER_CONFIG)
    )


def size_of(order: ListOrder, commit: str, name: str) -> int:
    """For hubs whose listing has no sizes."""
    url = hf_hub_url(order.repository, name, revision=commit)
    size = get_hf_file_metadata(url, token=order.token, timeout=order.timeout_s).size
    if size is None:
        raise ValueError(f"it does not say how large {name} is")
    return size


def read_object(order: ListOrder, commit: str, file: RemoteFile) -> dict[str, object]:
    if file.size_bytes > LONGEST_CONFIG_BYTES:
        raise Refused("refused", f"{file.name} is {file.size_bytes} bytes long, which no configuration is")
    content = CappedBytes()
    http_get(
        hf_hub_url(order.repository, file.name, revision=commit),
        content,
        headers=headers_of(order.token),
        expected_size=file.size_bytes,
    )
    value = json.loads(content.getvalue())
    if not isinstance(value, dict):
        raise Refused("refused", f"{file.name} does not contain a JSON object")
    return value


def fetch_all(order: FetchOrder) -> None:
    folder = Path(order.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused("busy", f"another pull writes to {folder}") from error
        over = threading.Event()
        reporter = threading.Thread(target=report, args=(order, folder, over), daemon=True)
        reporter.start()
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            fetches = [pool.submit(fetch, order, folder, file) for file in order.files]
            done, _ = wait(fetches, return_when=FIRST_EXCEPTION)
            for each in done:
                each.result()
        over.set()
        reporter.join()


def report(order: FetchOrder, folder: Path, over: threading.Event) -> None:
    while not over.wait(PROGRESS_INTERVAL_S):
        say(Progress(done_bytes=present_bytes(order.files, folder)))
    say(Progress(done_bytes=present_bytes(order.files, folder)))


def fetch(order: FetchOrder, folder: Path, file: RemoteFile) -> None:
    """Brings one file, checked. Raises Refused; what it has is kept unless it is wrong."""
    target = folder / file.name
    if is_own(target):  # it got its name when its hash was right
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}{PARTIAL}")
    with translated(file.name):
        if partial.exists() and partial.stat().st_size > file.size_bytes:
            partial.unlink()
        try:
            with CappedFile(partial, file) as stream:
                http_get(
                    hf_hub_url(order.repository, file.name, revision=order.commit),
                    stream,
                    resume_size=stream.tell(),
                    headers=headers_of(order.token),
                    expected_size=file.size_bytes,
                )
                sync_open(stream)
        except HfHubHTTPError as error:
            if error.response.status_code == 416:  # the hub's file is shorter than what we have of it
                partial.unlink()
                raise Refused("corrupt", f"{file.name} is shorter on the hub than its listing says") from error
            raise
        if not has_content(partial, file):
            partial.unlink()
            raise Refused("corrupt", f"{file.name} is not what the hub lists: its hash differs; it is thrown away")
        partial.rename(target)


def headers_of(token: str | None) -> dict[str, str]:
    """As they are in the file, so that bytes can be counted and a half file gone on with."""
    return build_hf_headers(token=token, library_name="stepserve") | {"Accept-Encoding": "identity"}


if __name__ == "__main__":
    sys.exit(main())
