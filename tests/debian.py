"""Programs that tests need and pip cannot bring: the machine's own, or Debian's, which root installs."""

import os
import shutil
import subprocess

import pytest

_LIMIT_S = 240.0


_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"  # where servers are, also for those who are not root


def program(name: str, package: str | None = None) -> str:
    """Its path; the package is called the same unless told. Skips the test, saying why, where it cannot be had."""
    package = package or name
    found = shutil.which(name, path=_PATH)
    if found is not None:
        return found
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        pytest.skip(f"{name} is not installed, and only root on Debian can install it here: apt install {package}")
    patient = ("-o", f"DPkg::Lock::Timeout={_LIMIT_S / 2:.0f}")  # another test process may be installing
    install = ("apt-get", *patient, "install", "-y", "-q", "--no-install-recommends", package)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (install, ("apt-get", "update"), install):  # the lists of packages may be missing or old
        try:
            subprocess.run(command, check=False, capture_output=True, timeout=_LIMIT_S, env=environment)
        except subprocess.TimeoutExpired:
            break
        found = shutil.which(name, path=_PATH)
        if found is not None:
            return found
    pytest.skip(f"{name} is not installed, and Debian's package cannot be had here")
