"""`/v1/chat/completions` through the gateway against bare `vllm serve`: `python -m benchmarks.gateway`.

Both servers run with the same engine flags and are loaded in turn, round by round, so that whatever else the machine
does meets both alike. The ratio over all rounds is the figure; absolute times mean little. Two bare servers compared this
way differ by some 3 %.
"""

import argparse

from benchmarks.load import Load, chat_load
from benchmarks.processes import MODEL_ID, bare_vllm, switchyard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=300, help="requests a round")
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
            _report(clients, Load.together(rounds[ours]), Load.together(rounds[bare]))


def _report(clients: int, ours: Load, bare: Load) -> None:
    rate, bare_rate = ours.requests_per_s, bare.requests_per_s
    columns = [f"{clients:7d}   {rate:16.1f}   {bare_rate:16.1f}   {rate / bare_rate:5.3f}"]
    for quantile in (0.5, 0.99):
        mine, theirs = ours.latency_ms(quantile), bare.latency_ms(quantile)
        columns.append(f"{mine:7.1f} / {theirs:7.1f} ({mine / theirs:4.2f})")
    print("   ".join(columns), flush=True)


if __name__ == "__main__":
    main()
