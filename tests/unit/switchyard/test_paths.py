from pathlib import Path

import pytest

from switchyard.paths import Layout


def test_sockets_lie_in_the_base_directory(tmp_path: Path) -> None:
    base = tmp_path.parents[-2] / "x"
    assert Layout(base, base / "models").gateway_socket == base / "sockets" / "gateway.sock"


def test_a_base_directory_too_deep_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    layout, other = Layout(deep, deep / "models"), Layout(deep / "other", deep / "models")
    assert len(str(layout.gateway_socket)) < 104
    assert layout.gateway_socket != other.gateway_socket
    layout.create()
    assert layout.gateway_socket.parent.stat().st_mode & 0o777 == 0o700
    assert (deep / "datasets").is_dir()


def test_a_base_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match="file"):
        Layout(file, file / "models").create()
