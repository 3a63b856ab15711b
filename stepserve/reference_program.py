"""`python -m stepserve.reference_program MODEL_PATH`: what transformers says of a few prompts, as JSON on stdout.

Control starts it with the lowest priority, one at a time. The one module outside the gateway that needs torch, and it
is imported by nobody.
"""

import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from stepserve.contract import EXIT_BROKEN_CHECKPOINT, Reference
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
    """Loads the checkpoint on the CPU in its own dtype.

    Raises BrokenCheckpoint, and whatever torch and transformers raise.
    """
    if _is_headless(path):
        raise ValueError("the model makes vectors, of which no token's probability says anything")
    import torch  # noqa: PLC0415 - whoever looks at this module need not have it
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: PLC0415 - likewise

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    model, loading = AutoModelForCausalLM.from_pretrained(
        path,
        dtype="auto",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    if missing := sorted(loading["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BrokenCheckpoint(f"its files hold no weights for {missing[0]}{more}, which its config.json asks for")
    if tokenizer.chat_template is None:
        question = tokenizer(QUESTION)["input_ids"]
    else:
        turns = [{"role": "user", "content": QUESTION}]
        asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        question = tokenizer(asked, add_special_tokens=False)["input_ids"]
    prompts = usable([question, *(tokenizer(text)["input_ids"] for text in TEXTS)])
    if not prompts:
        raise ValueError("the tokenizer makes fewer than two tokens of every prompt")
    model.eval()
    # No token ends it. What a model would say itself it finds likely: such tokens tell models apart and hardly depend
    # on rounding. In a text that it would never write it may find every token impossible, as other models do too.
    model.generation_config = GenerationConfig(max_new_tokens=CONTINUED_TOKENS, do_sample=False, pad_token_id=0)
    logprobs = []
    with torch.inference_mode():
        for token_ids in prompts:
            asked = torch.tensor(token_ids)[None]
            tokens = model.generate(input_ids=asked, attention_mask=torch.ones_like(asked))[0]
            token_ids[:] = tokens.tolist()
            logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
            spread = torch.log_softmax(logits.float(), dim=-1)
            said = spread.gather(1, tokens[1:, None])[:, 0]
            if not bool(torch.isfinite(said).all()):
                if model.dtype == torch.float16:  # which an engine may well take in another type
                    raise ValueError("its answers overflow in float16 on the CPU")
                raise BrokenCheckpoint(_not_finite(model))
            logprobs.append([round(value, 6) for value in said.tolist()])
    return Reference(kind="computed", prompt_token_ids=prompts, logprobs=logprobs)


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
