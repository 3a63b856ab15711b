"""The formats a dataset's lines may have, each recognised by its set of keys, or named by a `field_map`.

| format | keys (optional ones in brackets) | asked as | target, and what the loss is of |
|---|---|---|---|
| `question_answer` | `question`, `answer` | a user's turn | `answer` |
| `gsm8k` | `question`, `answer` with `####` | a user's turn | what follows `####`; the loss: all of `answer` |
| `prompt_answer` | `prompt`, `answer` | a plain completion | `answer` |
| `math` | `problem`, `solution` [`answer`] | a user's turn | `answer`, else the last `\\boxed{}`; loss: `solution` |
| `mmlu` | `question`, `choices`, `answer` (a plain index, letter or text) | a user's turn with choices | the letter |
| `arc` | `question`, `choices` {`text`, `label`}, `answerKey` | as above | the letter |
| `hellaswag` | `ctx`, `endings`, `label` [`activity_label`] | as above | the letter |
| `humaneval` | `prompt`, `test`, `entry_point` [`canonical_solution`] | a plain completion | the solution |
| `mbpp` | `text` or `prompt`, `code`, `test_list` [`test_imports`, `test_setup_code`] | a user's turn | `code` |
| `alpaca` | `instruction`, `output` [`input`] | a user's turn | `output` |
| `sharegpt` | `conversations` of `from`, `value` | these turns | the last turn (gpt's) |
| `messages` | `messages` [`answer`] | these turns | `answer`, else the last turn (assistant's) |
| `input_ideal` | `input` (text or messages), `ideal` (text or list) | a turn, these turns | `ideal`, any of a list |
| `input_target` | `input`, `target` [`choices`] | as above | `target`, any of a list; a letter with `choices` |
| `prompt_completion` | `prompt`, `completion` (texts or messages) | a plain completion, these turns | `completion` |

An answer is text or a number. `id` (text or a whole number; `task_id` and `unique_id` where a format has them) defaults
to the line's number. Other keys are kept as `metadata`; templates may use them.
"""

from collections.abc import Mapping

from evals.formats import choices, conversations, programs, questions
from evals.formats.content import Content, Fields, Format
from evals.formats.fields import decode, listed, mapped, sample_id
from evals.sample import AnswerIs, BrokenLine, Sample

FORMATS: tuple[Format, ...] = (*questions.FORMATS, *choices.FORMATS, *conversations.FORMATS, *programs.FORMATS)
_ALL_FIELDS = sorted({name for format_ in FORMATS for name in format_.known})


class BadFieldMap(Exception):
    """Its text says which field names no format has, or which are missing."""


def parse_sample(
    raw: bytes,
    *,
    line: int,
    index: int,
    field_map: Mapping[str, str] | None = None,
    answer_is: AnswerIs | None = None,
) -> Sample:
    """Makes a sample of a line that is not blank. Raises BrokenLine."""
    whole = decode(raw)
    fields = mapped(whole, field_map) if field_map else whole
    format_ = _format_of(fields)
    by_choice = format_.read_as if answer_is else None
    content: Content = by_choice(fields, answer_is) if by_choice and answer_is else format_.read(fields)
    used = set(field_map.values()) if field_map else format_.known
    return Sample(
        id=sample_id(fields, line, format_.ids),
        index=index,
        format=format_.name,
        metadata={name: value for name, value in whole.items() if name not in used and name != "id"},
        **{name: getattr(content, name) for name in Content.__slots__},
    )


def check_field_map(field_map: Mapping[str, str]) -> None:
    """Raises BadFieldMap unless the mapped fields are those of a format."""
    unknown = [name for name in field_map if name not in _ALL_FIELDS]
    if unknown:
        raise BadFieldMap(f"no format has a field {unknown[0]!r}; known are {', '.join(_ALL_FIELDS)}")
    if not any(format_.required <= field_map.keys() for format_ in FORMATS):
        raise BadFieldMap(f"{_nearest(field_map)}")


def _format_of(fields: Fields) -> Format:
    """The format whose required keys are there; of two, the one that requires more. Raises BrokenLine."""
    found = [format_ for format_ in FORMATS if format_.required <= fields.keys() and format_.fits(fields)]
    most = [one for one in found if not any(one.required < other.required for other in found)]
    if len(most) == 1:
        return most[0]
    if not most:
        raise BrokenLine(_nearest(fields))
    fitting = " and ".join(f"{one.name} ({', '.join(sorted(one.required))})" for one in most)
    raise BrokenLine(f"ambiguous: its keys are those of {fitting}; a field_map says which is meant")


def _nearest(fields: Fields) -> str:
    nearest = max(FORMATS, key=lambda one: len(one.required & fields.keys()) / len(one.required))
    missing = sorted(nearest.required - fields.keys())
    if len(missing) == len(nearest.required):
        names = ", ".join(one.name for one in FORMATS)
        return f"its keys {listed(fields)} are those of no known format ({names}); a field_map can name them"
    return f"{missing[0]!r} is missing to be {nearest.name}; its keys are {listed(fields)}"


__all__ = ["FORMATS", "BadFieldMap", "check_field_map", "parse_sample"]
