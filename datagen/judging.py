"""The optional judge: the model marks an example, and a low mark is a rejection."""

import re

from datagen.asking import Asking
from datagen.config import Judging
from datagen.records import Draft, Rejection
from datagen.solving import chat
from stepserve.contract import BatchSampling

PROMPT = (
    "Below are a task and an answer to it. Mark the answer from 1 (useless or wrong) to 5 (right, complete and clear)."
    " Write the mark alone, a single digit.\n\nTask:\n{question}\n\nAnswer:\n{answer}\n\nMark:"
)
_MARK = re.compile(r"(?<![0-9.])([1-5])(?![0-9])")
_SAMPLING = BatchSampling(max_tokens=8)


async def objections(drafts: list[Draft], judging: Judging, ask: Asking) -> list[Rejection | None]:
    """One a draft, in order; None: it passes. A judge that gives no mark does not pass it."""
    text = judging.prompt or PROMPT
    items = [
        chat(text.replace("{question}", draft.question).replace("{answer}", draft.reply), _SAMPLING) for draft in drafts
    ]
    found: list[Rejection | None] = []
    for draft, output in zip(drafts, await ask(items) if items else [], strict=True):
        mark = _MARK.search(output.text)
        if mark is None:
            found.append(Rejection("judge_without_mark", {"question": draft.question[:200]}))
        elif int(mark[1]) < judging.min_score:
            found.append(Rejection("judge", {"mark": mark[1], "question": draft.question[:200]}))
        else:
            found.append(None)
    return found
