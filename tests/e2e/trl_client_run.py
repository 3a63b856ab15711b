"""TRL's client, but for its communicator, through generation and an update: `python -m tests.e2e.trl_client_run URL
CHECKPOINT PROMPT`. Prints what it saw as JSON.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepserve.client.trl import use_http_weights


def main(url: str, checkpoint: str, prompt: str) -> None:
    client = use_http_weights()(base_url=url, connection_timeout=10.0)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    ids = [tokenizer.encode(prompt)]
    asked = {"temperature": 0.0, "max_tokens": 8, "n": 1}
    before = client.generate(ids, **asked)
    client.init_communicator(device="cpu")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
    client.update_model_params(model)
    whole = client.generate(ids, **asked)
    with client.weight_update():
        for name, parameter in model.named_parameters():
            client.update_named_param(name, parameter.data)
    client.reset_prefix_cache()
    refused = ""
    try:
        client.update_named_param("stray", torch.zeros(2))
    except Exception as error:  # noqa: BLE001 - TRL's client raises just that
        refused = str(error)
    client.close_communicator()
    seen = {
        "model": client.model,
        "world_size": client.get_world_size(),
        "prompt_ids": before["prompt_ids"],
        "expected_prompt_ids": ids,
        "before": tokenizer.decode(before["completion_ids"][0]),
        "after": tokenizer.decode(whole["completion_ids"][0]),
        "logprobs": len(whole["logprobs"][0]),
        "refused": refused,
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
