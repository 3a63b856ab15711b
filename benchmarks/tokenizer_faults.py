"""Another tokenizer or chat template than the checkpoint's: the weights are right and questions arrive garbled."""

import dataclasses
import json
import shutil
from typing import Any

from transformers import AutoTokenizer

from benchmarks.answer_change import Answers, change
from benchmarks.detection_bench import Bench
from benchmarks.detection_table import Found, Seen
from benchmarks.held_out import HeldOut
from benchmarks.processes import CHECKPOINT
from stepserve.contract import Reference

_FILE = "tokenizer.json"
TOKENIZER_FAULTS = [
    ("another tokenizer", "two digits swapped"),
    ("another chat template", "no role named"),
    ("another chat template", "a blank too many"),
]


async def tokenizer_faults(bench: Bench, answers: Answers, recorded: Reference, computed: Reference) -> list[Found]:
    """The engine holds the right weights."""
    right = bench.client.renderer.get_tokenizer()
    others: list[Any] = [
        _with_digits_swapped(bench),
        _with_template("<|im_start|>{{ messages[-1].content }}<|im_end|>"),
        _with_template(str(right.chat_template).replace("'\n'", "' \n'")),
    ]
    found = []
    for (kind, where), tokenizer in zip(TOKENIZER_FAULTS, others, strict=True):
        bench.client.renderer.get_tokenizer = lambda tokenizer=tokenizer: tokenizer
        now = await HeldOut(tokenizer).ask(bench.client)
        proofs = await bench.proofs(recorded, computed)
        moved = change(_chosen(answers), _chosen(now))
        found.append(Found(kind, where, moved, False, *(Seen.of(proof) for proof in proofs)))
        del bench.client.renderer.get_tokenizer
    return found


def _chosen(answers: Answers) -> Answers:
    """Without the given ones, which are other tokens for another tokenizer."""
    return dataclasses.replace(answers, given=[])


def _with_template(template: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    tokenizer.chat_template = template
    return tokenizer


def _with_digits_swapped(bench: Bench) -> Any:
    folder = bench.folder / "other-tokenizer"
    shutil.copytree(CHECKPOINT, folder)
    content = json.loads((folder / _FILE).read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["3"], vocabulary["7"] = vocabulary["7"], vocabulary["3"]
    (folder / _FILE).write_text(json.dumps(content))
    return AutoTokenizer.from_pretrained(folder)
