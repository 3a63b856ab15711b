"""A Ray cluster of two nodes in one machine, as a program: each has room for two replicas.

It prints its address, and for a line on standard input it ends the node that is not the head; at the end, both.
"""

import contextlib
import sys

from ray.cluster_utils import Cluster

ROOM = {"num_cpus": 2, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 100_000_000}


ATTEMPTS = 5


def with_head() -> Cluster:
    """Ray gives a node 30 s to start, which a busy machine may exceed."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(Exception):
            return Cluster(initialize_head=True, head_node_args=ROOM)
    return Cluster(initialize_head=True, head_node_args=ROOM)


def main() -> None:
    cluster = with_head()
    second = cluster.add_node(**ROOM)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    if sys.stdin.readline():
        cluster.remove_node(second, allow_graceful=False)
        print("removed", flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
