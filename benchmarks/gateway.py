"""`/v1/chat/completions` through the gateway against bare `vllm serve`: `python -m benchmarks.gateway`.

Both servers run with the same engine flags and are loaded in turn, in many short rounds, so that whatever else the
machine does meets both alike. The figure is the median of the rounds' ratios; absolute times mean little. Two bare
servers compared this way differ by some 3 %.
"""

import argparse
from statistics import median

from benchmarks.load import Load, chat_load
from benchmarks.processes import MODEL_ID, bare_vllm, switchyard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=150, help="requests a round")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 16, 64])
    args = parser.parse_args()
    print("clients   switchyard req/s   vllm serve req/s   ratio    p50 ms (ratio)       p99 ms (ratio)")
    with switchyard() as ours, bare_vllm() as bare:
        for clients in args.clients:
            requests = args.requests if clients > 1 else args.requests // 2
            rounds: dict[str, list[Load]] = {ours: [], bare: []}
            for url in (ours, bare):
                chat_load(url, MODEL_ID, clients, requests)
            for number in range(args.rounds):
                for url in (ours, bare) if number % 2 else (bare, ours):
                    rounds[url].append(chat_load(url, MODEL_ID, clients, requests))
            _report(clients, rounds[ours], rounds[bare])


def _report(clients: int, ours: list[Load], bare: list[Load]) -> None:
    ratio = median(mine.requests_per_s / theirs.requests_per_s for mine, theirs in zip(ours, bare, strict=True))
    all_ours, all_bare = Load.together(ours), Load.together(bare)
    columns = [f"{clients:7d}   {all_ours.requests_per_s:16.1f}   {all_bare.requests_per_s:16.1f}   {ratio:5.3f}"]
    for quantile in (0.5, 0.99):
        mine, theirs = all_ours.latency_ms(quantile), all_bare.latency_ms(quantile)
        columns.append(f"{mine:7.1f} / {theirs:7.1f} ({mine / theirs:4.2f})")
    print("   ".join(columns), flush=True)


if __name__ == "__main__":
    main()
