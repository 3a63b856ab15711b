"""vLLM's offline `LLM.generate` in a process of its own, asked over a pipe: one line in, one line of JSON out.

`{"prompts": [...], "max_tokens": n}` is answered with `{"seconds": s}`.
"""

import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

from vllm import LLM, SamplingParams

from stepserve.settings import EngineSettings


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # vLLM prints there
    settings = EngineSettings()
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_kv_cache_gib)
    model = LLM(sys.argv[1], max_num_seqs=settings.max_num_seqs, enforce_eager=True, seed=settings.seed)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        sampling = SamplingParams(temperature=0.0, max_tokens=asked["max_tokens"])
        started = time.perf_counter()
        model.generate(asked["prompts"], sampling, use_tqdm=False)
        print(json.dumps({"seconds": time.perf_counter() - started}), file=answers, flush=True)


if __name__ == "__main__":
    main()
