"""A harness as a run sees it: takes lm-eval's arguments, asks its questions one by one, and writes samples.

A task file says `questions` (how many), and `behave`: what happens after half of them.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def argument(name: str) -> str | None:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


def ask(model: dict[str, Any], prompt: str) -> str:
    body = {"model": model["model"], "prompt": prompt, "max_tokens": 8}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    request = urllib.request.Request(model["base_url"], json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=240) as answer:
            return str(json.load(answer)["choices"][0]["text"])
    except urllib.error.HTTPError as error:
        raise SystemExit(f"the server said {error.code}: {error.read().decode()}") from error


def misbehave(how: str, folder: Path) -> None:
    match how:
        case "crash":
            raise SystemExit("the metric cannot be computed")
        case "hang":
            away = subprocess.Popen(["sleep", "600"], start_new_session=True)
            (folder / "away").write_text(str(away.pid))
            time.sleep(600)
        case "write":
            for number in range(600):
                (folder / f"big{number}").write_bytes(b"0" * 1024**2)
                time.sleep(0.01)
        case "grow":
            print(len(bytearray(int(2e9))))


def main() -> None:
    task = json.loads(Path(argument("--tasks") or "").read_text())
    model = json.loads(argument("--model_args") or "")
    model["model"] = task.get("model", model["model"])
    out = Path(argument("--output_path") or "") / "m"
    out.mkdir(parents=True)
    questions = int(argument("--limit") or task["questions"])
    temporary = Path(os.environ["TMPDIR"])
    (temporary / "pid").write_text(str(os.getpid()))
    lines = []
    for number in range(questions):
        if number == questions // 2:
            misbehave(task.get("behave", ""), temporary)
        said = ask(model, f"{number}+1=")
        line = {
            "doc_id": number,
            "doc": {"id": f"q{number}"},
            "target": str(number + 1),
            "arguments": {"gen_args_0": {"arg_0": f"{number}+1="}},
            "resps": [[said]],
            "filtered_resps": [said],
            "metrics": ["exact_match"],
            "exact_match": float(said == str(number + 1)),
        }
        lines.append(json.dumps(line))
    (out / "samples_sums_2026.jsonl").write_text("\n".join(lines) + "\n")
    secrets = [name for name in os.environ if name.startswith("INFERENCE_")]
    print(f"asked {questions}, length {model['max_length']}, seed {argument('--seed')}, secrets {secrets}")


if __name__ == "__main__":
    main()
