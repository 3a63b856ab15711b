from pathlib import Path

import pytest

from stepserve.paths import Layout
from stepserve.privacy import open_to_others


def test_sockets_lie_in_the_base_directory(tmp_path: Path) -> None:
    base = tmp_path.parents[-2] / "x"
    assert Layout(base, base / "models").gateway_socket == base / "sockets" / "gateway.sock"


def test_a_base_directory_too_deep_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    layout, other = Layout(deep, deep / "models"), Layout(deep / "other", deep / "models")
    assert len(str(layout.gateway_socket)) < 104
    assert layout.gateway_socket != other.gateway_socket
    assert len(str(layout.engine_sockets)) + 1 + 36 < 104, "vLLM names its sockets by UUIDs"
    layout.create()
    assert layout.gateway_socket.parent.stat().st_mode & 0o777 == 0o700
    assert (deep / "datasets").is_dir()


def test_a_base_directory_too_deep_for_an_engines_sockets_alone_has_a_place_for_them(tmp_path: Path) -> None:
    base = tmp_path / ("d" * (78 - len(str(tmp_path))))
    layout = Layout(base, base / "models")
    layout.create()
    assert layout.gateway_socket.is_relative_to(base)
    assert not layout.engine_sockets.is_relative_to(base)
    assert mode(layout.engine_sockets.parent) == 0o700
    layout.engine_sockets.parent.rmdir()


def test_a_base_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match="file"):
        Layout(file, file / "models").create()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_base_directory_that_was_open_is_closed_and_the_users_folders_are_left(tmp_path: Path) -> None:
    base = tmp_path / "base"
    layout = Layout(base, base / "models")
    layout.create()
    layout.key_cache.write_text("{}")
    (layout.models / "mine").mkdir()
    for path in (*layout.kept_private, layout.models, layout.models / "mine"):
        if path.exists():
            path.chmod(0o777)
    assert set(open_to_others(layout.kept_private)) >= {base, layout.key_cache, layout.gateway_socket.parent}
    layout.create()
    assert open_to_others(layout.kept_private) == []
    assert (mode(base), mode(layout.key_cache), mode(layout.gateway_socket.parent)) == (0o700, 0o600 | 0o100, 0o700)
    assert (mode(layout.models), mode(layout.models / "mine")) == (0o777, 0o777)


def test_a_base_directory_that_is_a_link_is_not_touched_but_what_the_server_keeps_in_it_is(tmp_path: Path) -> None:
    real, base = tmp_path / "real", tmp_path / "base"
    real.mkdir()
    real.chmod(0o755)
    base.symlink_to(real)
    layout = Layout(base, base / "models")
    layout.create()
    assert mode(real) == 0o755
    assert open_to_others(layout.kept_private) == [base]


def test_folders_that_many_share_and_links_out_of_the_base_directory_are_not_touched(tmp_path: Path) -> None:
    shared, elsewhere, base = tmp_path / "shared", tmp_path / "elsewhere", tmp_path / "base"
    for folder in (shared, elsewhere, base):
        folder.mkdir()
    shared.chmod(0o1777)
    Layout(shared, shared / "models").create()
    assert shared.stat().st_mode & 0o7777 == 0o1777
    elsewhere.chmod(0o755)
    (base / "datasets").symlink_to(elsewhere)
    Layout(base, base / "models").create()
    assert mode(elsewhere) == 0o755


def test_sockets_behind_a_link_are_refused(tmp_path: Path) -> None:
    base, elsewhere = tmp_path / "base", tmp_path / "elsewhere"
    base.mkdir()
    elsewhere.mkdir()
    (base / "sockets").symlink_to(elsewhere)
    with pytest.raises(PermissionError, match="symbolic link"):
        Layout(base, base / "models").create()
