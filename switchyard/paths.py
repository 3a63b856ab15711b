"""Where everything lies on disk: one place that knows the names."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

_LONGEST_SOCKET_PATH = 100  # sockaddr_un holds 108 bytes on Linux, 104 on macOS


@dataclass(frozen=True, slots=True)
class Layout:
    """The base directory's contents; `models` may lie elsewhere (INFERENCE_MODELS_DIR)."""

    base: Path
    models: Path

    @property
    def database(self) -> Path:
        return self.base / "db.sqlite"

    @property
    def datasets(self) -> Path:
        return self.base / "datasets"

    @property
    def logs(self) -> Path:
        return self.base / "logs"

    @property
    def runs(self) -> Path:
        return self.base / "runs"

    @property
    def eval_runs(self) -> Path:
        return self.runs / "eval"

    @property
    def shards(self) -> Path:
        return self.base / "train_shards_out"

    @property
    def uploads(self) -> Path:
        """Checkpoints that are not whole yet."""
        return self.base / "checkpoints"

    @property
    def references(self) -> Path:
        return self.base / "references"

    @property
    def prompts(self) -> Path:
        return self.base / "prompts"

    @property
    def files(self) -> Path:
        return self.base / "files"

    @property
    def lock_file(self) -> Path:
        return self.base / "switchyard.lock"

    @property
    def key_cache(self) -> Path:
        """The gateway's copy of the keys (hashes), for a start without control."""
        return self.base / "keys.json"

    @property
    def gateway_socket(self) -> Path:
        return self._socket("gateway.sock")

    @property
    def control_socket(self) -> Path:
        return self._socket("control.sock")

    def create(self) -> None:
        """Makes every folder. Raises OSError when the base directory is a file or cannot be written."""
        working = (self.datasets, self.logs, self.eval_runs, self.shards, self.references, self.uploads, self.files)
        for folder in (self.base, self.models, *working):
            folder.mkdir(parents=True, exist_ok=True)
        sockets = self.gateway_socket.parent
        sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
        if sockets.stat().st_uid != os.getuid():
            raise PermissionError(f"{sockets} belongs to another user")

    def _socket(self, name: str) -> Path:
        beside = self.base / "sockets" / name
        if len(os.fsencode(beside)) <= _LONGEST_SOCKET_PATH:
            return beside
        short = hashlib.sha256(os.fsencode(self.base.absolute())).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"switchyard-{os.getuid()}-{short}" / name
