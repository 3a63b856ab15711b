"""What differs between the vLLM versions that the gateway runs with: every name that one of them has elsewhere."""

from importlib import import_module
from typing import Any

# 0.32 has them in the first, 0.33 in the second.
_CLI_ARGS = (
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.common.cli_args",
)


def _module(places: tuple[str, ...]) -> Any:
    for place in places[:-1]:
        try:
            return import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not place.startswith(error.name):
                raise
    return import_module(places[-1])


_cli_args = _module(_CLI_ARGS)
make_arg_parser = _cli_args.make_arg_parser
validate_parsed_serve_args = _cli_args.validate_parsed_serve_args
