"""Where everything lies on disk: one place that knows the names."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stepserve.privacy import check_socket_folder, tighten

_LONGEST_SOCKET_PATH = 100  # sockaddr_un holds 108 bytes on Linux, 104 on macOS
_ENGINE_SOCKET_NAME = 36  # characters: vLLM names each by a UUID


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
    def templates(self) -> Path:
        """The user's own chat templates, which a registration may name; nothing is put there."""
        return self.base / "templates"

    @property
    def tasks(self) -> Path:
        """The machine owner's own task files of other eval harnesses; nothing is put there."""
        return self.base / "tasks"

    @property
    def harnesses(self) -> Path:
        """The virtual environments of those harnesses; made by a command."""
        return self.base / "harnesses"

    @property
    def files(self) -> Path:
        return self.base / "files"

    @property
    def fleet_models(self) -> Path:
        """Models that a member of a fleet fetched from control; made when there is one."""
        return self.base / "fleet"

    @property
    def replicas(self) -> Path:
        """The base directories of further gateways that this server starts, a folder each; made when there are any."""
        return self.base / "replicas"

    @property
    def trackers(self) -> Path:
        """What experiment trackers write, a folder for each webhook that is one."""
        return self.base / "trackers"

    @property
    def lock_file(self) -> Path:
        return self.base / "stepserve.lock"

    @property
    def former_lock_file(self) -> Path:
        """The lock of servers from before the project was called Stepserve."""
        return self.base / "switchyard.lock"

    @property
    def aliases(self) -> Path:
        """Aliases that were set while the server ran."""
        return self.base / "aliases.json"

    @property
    def key_cache(self) -> Path:
        """The gateway's copy of the keys (hashes), for a start without control."""
        return self.base / "keys.json"

    @property
    def versions(self) -> Path:
        """The number of the last push of weights to each model."""
        return self.base / "weights_versions.json"

    @property
    def pushed(self) -> Path:
        """The version of the active model's weights that a fleet serves; made when weights are pushed to one."""
        return self.base / "pushed"

    def pushed_version(self, model_id: str, number: int) -> Path:
        return self.pushed / f"{model_id}-v{number}"

    @property
    def gateway_socket(self) -> Path:
        return self._socket("gateway.sock")

    @property
    def control_socket(self) -> Path:
        return self._socket("control.sock")

    @property
    def engine_sockets(self) -> Path:
        """Sockets between the gateway and its engines, which are killed with it; made by the gateway."""
        return self._socket(f"engines/{'0' * _ENGINE_SOCKET_NAME}").parent

    def create(self) -> None:
        """Makes every folder, and closes what the server keeps to other users of the machine; `models` is the user's.

        Raises OSError when the base directory is a file or cannot be written, or others can get at the sockets.
        """
        self.base.mkdir(parents=True, exist_ok=True, mode=0o700)
        tighten(self.base)
        working = (self.datasets, self.logs, self.eval_runs, self.shards, self.references, self.uploads, self.files)
        for folder in (self.models, *working):
            folder.mkdir(parents=True, exist_ok=True)
        socket_folders = {self.gateway_socket.parent, self.engine_sockets.parent}
        for folder in socket_folders:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self.kept_private:
            tighten(path)
        for folder in socket_folders:
            check_socket_folder(folder)

    @property
    def kept_private(self) -> tuple[Path, ...]:
        """What nobody but the server's user may enter or read; what lies in these folders is closed with them."""
        folders = (self.datasets, self.logs, self.runs, self.shards, self.references, self.uploads, self.files)
        database = (self.database.with_name(self.database.name + suffix) for suffix in ("", "-wal", "-shm"))
        own = (
            self.gateway_socket.parent, self.prompts, self.harnesses, self.key_cache, self.versions, self.lock_file,
        )  # fmt: skip
        return (self.base, *folders, *own, *database)

    def _socket(self, name: str) -> Path:
        beside = self.base / "sockets" / name
        if len(os.fsencode(beside)) <= _LONGEST_SOCKET_PATH:
            return beside
        short = hashlib.sha256(os.fsencode(self.base.absolute())).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"stepserve-{os.getuid()}-{short}" / name
