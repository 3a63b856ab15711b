"""`python -m stepserve.reference_program MODEL_PATH`: what transformers says of a few prompts, as JSON on stdout.

Control starts it with the lowest priority, one at a time. The one module outside the gateway that needs torch, and it
is imported by nobody.
"""

import json
import math
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from stepserve.contract import EXIT_BROKEN_CHECKPOINT, Encoding, Reference
from stepserve.difference import compare
from stepserve.process import follow_parent

LOWEST_PRIORITY = 19
LONGEST_PROMPT_TOKENS = 64
CONTINUED_TOKENS = 24
QUESTION = "What is 17+25?"
TEXTS = (
    "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
    "17+25=42, 36+48=84, 90+9=99",
    "The lighthouse keeper wrote down the weather every morning, and nobody ever read it.",
    "def area(width: float, height: float) -> float:\n    return width * height\n",
    "Каждое утро 灯台守は 天気を書きとめた。 كل صباح",
)


def main(path: Path) -> int:
    setproctitle("stepserve: reference")
    follow_parent(signal.SIGKILL)
    os.nice(LOWEST_PRIORITY)
    # Whatever the libraries print belongs to stderr: stdout carries the answer alone.
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with answer:
        try:
            answer.write(reference_of(path).model_dump_json())
        except BrokenCheckpoint as error:
            sys.stderr.write(f"\n{error}\n")
            return EXIT_BROKEN_CHECKPOINT
    return 0


class BrokenCheckpoint(Exception):
    """No engine could answer with these files as they are meant."""


def reference_of(path: Path) -> Reference:
    """What the checkpoint says in float32, and what computing in bfloat16 changes; on the CPU.

    Takes the memory of its weights in float32. Raises BrokenCheckpoint, and whatever torch and transformers raise.
    """
    if _is_headless(path):
        raise ValueError("the model makes vectors, of which no token's probability says anything")
    import torch  # noqa: PLC0415 - whoever looks at this module need not have it
    from transformers import AutoTokenizer, GenerationConfig  # noqa: PLC0415 - likewise

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    encodings = _encodings(tokenizer)
    model = _load(path, torch.float32)
    prompts = usable(list(encoding.token_ids) for encoding in encodings)
    if not prompts:
        raise ValueError("the tokenizer makes fewer than two tokens of every prompt")
    # No token ends it. What a model would say itself it finds likely: such tokens tell models apart and hardly depend
    # on rounding. In a text that it would never write it may find every token impossible, as other models do too.
    model.generation_config = GenerationConfig(max_new_tokens=CONTINUED_TOKENS, do_sample=False, pad_token_id=0)
    for token_ids in prompts:
        begun = torch.tensor(token_ids)[None]
        token_ids[:] = model.generate(input_ids=begun, attention_mask=torch.ones_like(begun))[0].tolist()
    logprobs = _said(model, prompts)
    if not _is_finite(logprobs):
        raise BrokenCheckpoint(_not_finite(model))
    del model
    rounded = _said(_load(path, torch.bfloat16), prompts)
    noise = round(compare(rounded, logprobs).mean, 6) if _is_finite(rounded) else None
    return Reference(
        kind="computed",
        prompt_token_ids=prompts,
        logprobs=logprobs,
        noise=noise,
        encodings=[each for each in encodings if each.token_ids and not _tells_the_time(tokenizer, each)],
    )


def _encodings(tokenizer: Any) -> list[Encoding]:
    """The question, through the chat template if there is one, and the texts."""
    texts = [Encoding(text=text, token_ids=tokenizer(text)["input_ids"]) for text in TEXTS]
    if tokenizer.chat_template is None:
        return [Encoding(text=QUESTION, token_ids=tokenizer(QUESTION)["input_ids"]), *texts]
    messages = [{"role": "user", "content": QUESTION}]
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    token_ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
    return [Encoding(messages=messages, token_ids=token_ids), *texts]


def _tells_the_time(tokenizer: Any, encoding: Encoding) -> bool:
    return encoding.messages is not None and "strftime" in str(tokenizer.chat_template)


def _load(path: Path, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - as above

    model, loading = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    if missing := sorted(loading["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BrokenCheckpoint(f"its files hold no weights for {missing[0]}{more}, which its config.json asks for")
    return model.eval()


def _said(model: Any, prompts: Iterable[list[int]]) -> list[list[float]]:
    """The log-probability of each prompt's tokens but its first: [n_prompts][n_tokens - 1]."""
    import torch  # noqa: PLC0415 - as above

    rows = []
    with torch.inference_mode():
        for token_ids in prompts:
            tokens = torch.tensor(token_ids)
            logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
            said = torch.log_softmax(logits.float(), dim=-1).gather(1, tokens[1:, None])[:, 0]
            rows.append([round(value, 6) for value in said.tolist()])
    return rows


def _is_finite(rows: Iterable[list[float]]) -> bool:
    return all(math.isfinite(value) for row in rows for value in row)


def _not_finite(model: Any) -> str:
    """Which of the weights are to blame, where they are."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return f"{name} holds numbers that are not finite (NaN or infinite)"
    return "the log-probabilities of its answers are not finite"


def _is_headless(path: Path) -> bool:
    """A model of sentence-transformers, or a bare one as those are: BertModel and the like."""
    named = json.loads((path / "config.json").read_bytes()).get("architectures") or [""]
    is_bare = str(named[0]).endswith("Model") and not str(named[0]).endswith("LMHeadModel")
    return (path / "modules.json").exists() or is_bare


def usable(prompts: Iterable[list[int]]) -> list[list[int]]:
    """Cut to LONGEST_PROMPT_TOKENS, without those too short to say anything of."""
    return [prompt[:LONGEST_PROMPT_TOKENS] for prompt in prompts if len(prompt) >= 2]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
