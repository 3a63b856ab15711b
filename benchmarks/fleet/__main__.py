"""A fleet as it grows, simulated: `python -m benchmarks.fleet --members 200`.

Everything runs on a virtual clock with the service times and failures that are given; what decides is the real code:
the gateway's choice of a member and its breakers, control's plan of a rollout. Heartbeats are answered by a real
control, in this process. A job is fed in real time, over real sockets, to a process that plays the members. No engine
is started, and nothing of this machine's is changed.
"""

import argparse
import asyncio
from statistics import fmean

from benchmarks.fleet.answering import SAMPLES_AT_ONCE
from benchmarks.fleet.balancing import Affinity, Fleet, Policy
from benchmarks.fleet.feeding import feed
from benchmarks.fleet.heartbeats import cost_of
from benchmarks.fleet.rollout import Simulation, Times
from stepserve.fleet import RolloutPolicy, Wave

_SMALLER = (3, 10, 50)
_RUNS: tuple[tuple[Policy, Affinity], ...] = (
    ("stepserve", "none"),
    ("stepserve", "session"),
    ("stepserve", "prefix"),
    ("stepserve", "shared prefix"),
    ("fewest requests", "none"),
    ("round robin", "none"),
    ("random", "none"),
)
_WAVES: tuple[Wave, ...] = ("1", "25%", "all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="of virtual time, after 30 s of warming up")
    parser.add_argument("--killed", type=int, default=1, help="members that die meanwhile, in a run of its own")
    parser.add_argument("--files-s", type=float, default=20.0, help="to fetch a checkpoint")
    parser.add_argument("--switch-s", type=float, default=6.0, help="to load and prove it")
    parser.add_argument("--fails", type=float, default=0.01, help="chance that a member's proof fails")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["balancing", "rollouts", "heartbeats", "feeding"])
    parser.add_argument(
        "--sample-s", type=float, default=1.0, help="of a job: more where this machine is too slow for all of them"
    )
    args = parser.parse_args()
    sizes = [*(size for size in _SMALLER if size < args.members), args.members]
    if args.only in {None, "balancing"}:
        _balancing(sizes, args.seconds, args.killed, args.seed)
    if args.only in {None, "rollouts"}:
        _rollouts(sizes, Times(files_s=args.files_s, switch_s=args.switch_s), args.fails, args.seed)
    if args.only in {None, "heartbeats"}:
        _heartbeats(sizes)
    if args.only in {None, "feeding"}:
        _feeding(sizes, args.sample_s)


def _balancing(sizes: list[int], seconds: float, killed: int, seed: int) -> None:
    print("outstanding tokens of a member over the mean of all, at 75 % of what they can do")
    print(
        "members   choice            affinity        p99   worst   wait p99 s   choice µs   answered   retried   failed"
    )
    for size in sizes:
        runs = [(*run, 0) for run in _RUNS]
        if size > killed:
            runs.append(("stepserve", "none", killed))
        for policy, affinity, dying in runs:
            out = Fleet(size, affinity, policy, seconds, dying, seed).run()
            name = f"{affinity}, {dying} die" if dying else affinity
            columns = [f"{size:7d}", f"{policy:15s}", f"{name:13s}{out.unevenness:6.2f}", f"{out.worst:5.2f}"]
            columns += [f"{out.wait_p99_s:10.2f}", f"{out.choose_us:9.1f}"]
            columns += [f"{out.answered:8d}", f"{out.retried:7d}", f"{out.failed:5d}"]
            print("   ".join(columns), flush=True)


def _rollouts(sizes: list[int], times: Times, fails: float, seed: int) -> None:
    print()
    print(
        f"rollouts: {times.files_s:g} s for the files, {times.sharing} members at a time, {times.switch_s:g} s a switch"
    )
    print("members   wave   policy     fails    committed   total s   of it files s   held s   member-s out   rows")
    for size in sizes:
        for wave in _WAVES:
            cases: tuple[tuple[RolloutPolicy, float], ...] = (("all", 0.0), ("all", fails), ("quorum", fails))
            for policy, chance in cases:
                ends = [Simulation(size, wave, policy, times, chance, seed + run).run() for run in range(20)]
                done = sum(end.phase == "committed" for end in ends)
                columns = [f"{size:7d}", f"{wave:4s}", f"{policy:6s}", f"{chance:7.1%}", f"{done:6d}/20"]
                columns += [
                    f"{fmean(end.total_s for end in ends):7.0f}",
                    f"{fmean(end.staged_s for end in ends):13.0f}",
                ]
                columns += [f"{fmean(end.held_s for end in ends):6.1f}", f"{fmean(end.out_s for end in ends):12.0f}"]
                print("   ".join([*columns, f"{fmean(end.steps for end in ends):4.0f}"]), flush=True)


def _heartbeats(sizes: list[int]) -> None:
    print()
    print("CPU time of control, and of the gateway that takes its view")
    print("members   heartbeats/s   ms each   view: ms control   ms gateway   KB   cores of control")
    for size in sizes:
        cost = asyncio.run(cost_of(size, rounds=5))
        print(
            f"{size:7d}   {cost.heartbeats_per_s:12.1f}   {cost.heartbeat_ms:7.2f}   {cost.show_ms:16.1f}"
            f"   {cost.take_ms:10.1f}   {cost.view_bytes / 1e3:4.0f}   {cost.control_cores:16.3f}",
            flush=True,
        )


def _feeding(sizes: list[int], sample_s: float) -> None:
    print()
    print(f"a job, fed by control to gateways that have {SAMPLES_AT_ONCE} samples at a time, {sample_s:g} s each")
    print("members   samples/s   of possible   CPU µs a sample   cores of control   cores at 1 s a sample")
    for size in sizes:
        fed = asyncio.run(feed(size, 20.0, sample_s))
        print(
            f"{size:7d}   {fed.samples_per_s:9.0f}   {fed.samples_per_s / fed.possible_per_s:11.0%}"
            f"   {fed.sample_us:15.1f}   {fed.cores:16.3f}   {fed.sample_us * size * SAMPLES_AT_ONCE / 1e6:21.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
