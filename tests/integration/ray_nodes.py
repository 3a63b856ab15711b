"""A Ray cluster of two nodes in one machine, as a program: each has room for two replicas.

It prints its address, and for a line on standard input it ends the node that is not the head; at the end, both.
"""

import sys

from ray.cluster_utils import Cluster

ROOM = {"num_cpus": 2, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 100_000_000}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args=ROOM)
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
