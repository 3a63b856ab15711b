"""vLLM's engine arguments as a person gives them: made into its flags, and checked by its own parser and types.

Nothing is started. What a value has to do with a model (heads that a number of ranks must divide, a quantisation that
this device lacks) is checked where there is one, by vLLM's own ModelConfig.
"""

import argparse
import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NoReturn

import vllm.config
from pydantic import ConfigDict, TypeAdapter, ValidationError
from vllm.config import ParallelConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from gateway.engine.cards import all_visible
from gateway.engine.versions import make_arg_parser
from gateway.errors import EngineArgumentRefused
from gateway.serving.parsers import AUTO
from stepserve.engine_arguments import OWNED, all_ranks_of, nodes_of, ranks_of, refusal
from stepserve.settings import EngineSettings

_MOST_CHARACTERS = 300  # of vLLM's own words


class RaisingParser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM brings no types for it
    """Raises EngineArgumentRefused where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        raise EngineArgumentRefused(_shortened(message.removeprefix("argument ")))


def parser() -> RaisingParser:
    """Of the flags of `vllm serve`."""
    made: RaisingParser = make_arg_parser(RaisingParser())
    return made


def flags_of(args: Mapping[str, Any]) -> list[str]:
    """The arguments as flags of `vllm serve`. Raises EngineArgumentRefused for one that there is not, or for a value
    that cannot be written as its flag; whether the value is right is left to the parser.
    """
    if not args:
        return []  # without a second or so for a parser
    known = _known()
    flags: list[str] = []
    for name, value in args.items():
        if name not in known:
            raise EngineArgumentRefused(f"engine.args.{name}: vLLM has no such engine argument{_nearest(name, known)}")
        flags += _flag(name, value, known[name])
    return flags


def check(settings: EngineSettings, folder: Path | None = None) -> None:
    """Whether vLLM takes these arguments, and with `folder` whether they suit the checkpoint there.

    Reads config.json and, the first time, imports the model's code, which takes a second or two. Raises
    EngineArgumentRefused.
    """
    args = settings.args
    if (reason := refusal(args)) is not None:
        raise EngineArgumentRefused(f"engine.args.{reason}")
    flags = flags_of(args)
    for name, value in args.items():  # each by itself, so that what is said is about it
        try:
            parsed = parser_for_checks().parse_args(_flag(name, value, _known()[name]))
        except EngineArgumentRefused as error:
            raise EngineArgumentRefused(f"engine.args.{name}: {_without_name(str(error))}") from error
        _check_type(name, getattr(parsed, name))
    check_parsers(settings)
    with all_visible() if ranks_of(args) > 1 else nullcontext():
        check_ranks(args)
        if folder is not None:
            _check_for_model([*flags, f"--dtype={settings.dtype}"], folder, trust=settings.trust_remote_code)


def check_parsers(settings: EngineSettings) -> None:
    """Raises EngineArgumentRefused for the name of a parser that this vLLM does not have."""
    from vllm.reasoning import ReasoningParserManager  # noqa: PLC0415 - a second of imports that few starts need
    from vllm.tool_parsers import ToolParserManager  # noqa: PLC0415 - likewise

    for field, known in (
        ("tool_call_parser", ToolParserManager.list_registered()),
        ("reasoning_parser", ReasoningParserManager.list_registered()),
    ):
        name = getattr(settings, field)
        if name not in {None, AUTO} and name not in known:
            raise EngineArgumentRefused(f"engine.{field}: vLLM has no parser {name!r}{_nearest(name, known)}")


def devices() -> int:
    """On how many devices ranks can be: cards, or the cores that this process may use."""
    if current_platform.is_cpu():
        return len(os.sched_getaffinity(0))
    count: int = current_platform.device_count()
    return count


def check_ranks(args: Mapping[str, Any]) -> None:
    """Raises EngineArgumentRefused where there are more ranks than devices, or nodes cannot have equally many."""
    nodes, ranks = nodes_of(args), ranks_of(args)
    if all_ranks_of(args) % nodes:
        raise EngineArgumentRefused(
            f"engine.args.nnodes: {all_ranks_of(args)} ranks (tensor_parallel_size x pipeline_parallel_size) cannot be"
            f" shared out evenly among {nodes} nodes"
        )
    if ranks == 1 or ranks <= (there := devices()):
        return
    given = " x ".join(
        f"{name} {args[name]}" for name in ("tensor_parallel_size", "pipeline_parallel_size") if name in args
    )
    given += f" over {nodes} nodes" if nodes > 1 else ""
    on_each = " on each" if nodes > 1 else ""
    kind = "cores" if current_platform.is_cpu() else "devices"
    raise EngineArgumentRefused(f"engine.args: {given} needs {ranks} {kind}{on_each}, and this machine has {there}")


@cache
def parser_for_checks() -> RaisingParser:
    return parser()


@cache
def _known() -> dict[str, argparse.Action]:
    """vLLM's engine arguments by their names; those that it has no flag for are for code alone."""
    names = {field.name for field in fields(AsyncEngineArgs)}
    return {action.dest: action for action in parser_for_checks()._actions if action.dest in names}


def _flag(name: str, value: Any, action: argparse.Action) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise EngineArgumentRefused(f"engine.args.{name}: must be true or false, not {value!r}")
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    if isinstance(value, list):
        if action.nargs not in {"+", "*"} and not isinstance(action.nargs, int):
            raise EngineArgumentRefused(f"engine.args.{name}: takes one value, not a list")
        texts = [_text(each) for each in value]
        if not texts or any(text.startswith("-") for text in texts):  # one would be taken for another flag
            raise EngineArgumentRefused(f"engine.args.{name}: takes a list of values that do not begin with '-'")
        return [flag, *texts]
    if isinstance(value, bool) and action.nargs != "?":
        raise EngineArgumentRefused(f"engine.args.{name}: takes a value, not {json.dumps(value)}")
    return [f"{flag}={_text(value)}"]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _check_type(name: str, value: Any) -> None:
    """By the type, with its bounds, that vLLM's configuration gives the field of this name."""
    adapter = _types().get(name)
    if adapter is None:
        return
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        raise EngineArgumentRefused(f"engine.args.{name}: {_words(error)}, not {value!r}") from error


@cache
def _types() -> dict[str, TypeAdapter[Any]]:
    annotated: Any = Annotated
    found: dict[str, TypeAdapter[Any]] = {}
    for config in vars(vllm.config).values():
        for name, field in getattr(config, "__pydantic_fields__", {}).items():
            if field.metadata and name in _known():
                typed = annotated[(field.annotation, *field.metadata)]
                found.setdefault(name, TypeAdapter(typed, config=ConfigDict(arbitrary_types_allowed=True)))
    return found


def _check_for_model(flags: list[str], folder: Path, *, trust: bool) -> None:
    try:
        parsed = parser_for_checks().parse_args([f"--model={folder}", *flags])
        parsed.trust_remote_code = trust
        args = AsyncEngineArgs.from_cli_args(parsed)
        model = args.create_model_config()
        model.verify_with_parallel_config(
            ParallelConfig(
                tensor_parallel_size=args.tensor_parallel_size,
                pipeline_parallel_size=args.pipeline_parallel_size,
                decode_context_parallel_size=args.decode_context_parallel_size,
                enable_expert_parallel=args.enable_expert_parallel,
            )
        )
    except EngineArgumentRefused:
        raise
    except ValidationError as error:
        raise EngineArgumentRefused(f"engine.args: {_words(error)}") from error
    except (ValueError, TypeError, NotImplementedError, AssertionError, OSError) as error:
        raise EngineArgumentRefused(f"engine.args: {_shortened(str(error))}") from error


def _nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    close = get_close_matches(name, [each for each in known if each not in OWNED], n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _words(error: ValidationError) -> str:
    """What pydantic says of the first mistake, without its links."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    text = str(first["msg"]).removeprefix("Value error, ")
    return _shortened(f"{place}: {text}" if place else text)


def _without_name(message: str) -> str:
    """argparse begins with the flags: `--tensor-parallel-size/-tp: invalid int value: 'two'`."""
    flags, colon, rest = message.partition(": ")
    return rest if colon and flags.startswith("-") else message


def _shortened(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and "errors.pydantic.dev" not in line]
    joined = " ".join(lines)
    return joined if len(joined) <= _MOST_CHARACTERS else joined[:_MOST_CHARACTERS].rstrip() + " …"
