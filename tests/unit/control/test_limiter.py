"""Setting a limit without the right to, through a command that stands for `sudo -n nvidia-smi`."""

import importlib
from pathlib import Path

import pytest

from control.power.limiter import Limiter
from control.telemetry.cards import PowerRefused
from control.telemetry.nvml import Nvml
from tests.unit.control.recorded_nvml import H200, RecordedNvml


def command(folder: Path, script: str) -> str:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def limiter(program: str) -> Limiter:
    library = RecordedNvml(H200, H200)
    library.may_set = False
    return Limiter(Nvml(library), (program,))


def test_the_command_is_asked_for_that_card(tmp_path: Path) -> None:
    limiter(command(tmp_path, f'echo "$@" > {tmp_path}/asked')).set(1, 279.6)
    assert (tmp_path / "asked").read_text() == "-i 1 -pl 280\n"


def test_what_each_way_said_is_told(tmp_path: Path) -> None:
    failing = command(tmp_path, "echo 'sudo: a password is required' >&2; exit 1")
    with pytest.raises(PowerRefused, match=r"Insufficient Permissions; .*a password is required"):
        limiter(failing).set(0, 280)


def test_no_such_command() -> None:
    with pytest.raises(PowerRefused, match="there is no nvidia-smi-of-nobody"):
        limiter("nvidia-smi-of-nobody").set(0, 280)


def test_nvml_is_enough_where_it_may(tmp_path: Path) -> None:
    library = RecordedNvml(H200)
    Limiter(Nvml(library), (command(tmp_path, "exit 1"),)).set(0, 300)
    assert library.cards[0]["nvmlDeviceGetPowerManagementLimit"] == 300_000


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody else's package with one way that works below 300 W and one that is broken; the file it writes to."""
    site = tmp_path / "site"
    facts = site / "others_power-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: others-power\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[stepserve.power_limiters]\nbroken = others_power:nothing\nrack = others_power:limit\n"
    )
    (site / "others_power.py").write_text(
        "from pathlib import Path\n"
        "from control.telemetry.cards import PowerRefused\n\n\n"
        "def limit(index, watts):\n"
        "    if watts > 300:\n"
        "        raise PowerRefused('rack: over budget')\n"
        f"    Path({str(tmp_path / 'set')!r}).write_text(f'{{index}} {{watts:g}}')\n"
    )
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    return tmp_path / "set"


def test_an_installed_way_comes_first(tmp_path: Path, installed: Path) -> None:
    library = RecordedNvml(H200)
    before = library.cards[0]["nvmlDeviceGetPowerManagementLimit"]
    Limiter(Nvml(library), (command(tmp_path, "exit 1"),)).set(0, 280)
    assert installed.read_text() == "0 280"
    assert library.cards[0]["nvmlDeviceGetPowerManagementLimit"] == before


def test_an_installed_way_that_refuses_leaves_the_others(tmp_path: Path, installed: Path) -> None:
    with pytest.raises(PowerRefused, match=r"^broken: .*cannot be imported.*; rack: over budget; NVML: Insufficient"):
        limiter(command(tmp_path, "exit 1")).set(0, 320)
    library = RecordedNvml(H200)
    Limiter(Nvml(library), (command(tmp_path, "exit 1"),)).set(0, 320)
    assert library.cards[0]["nvmlDeviceGetPowerManagementLimit"] == 320_000
