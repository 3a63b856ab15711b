"""Client: every route of the server as a method that blocks, and what takes more than one request."""

import os
from collections.abc import Iterator
from typing import Any

from stepserve.client.blocking import BlockingClient
from stepserve.client.inbox import ShardFile, shards
from stepserve.client.push import Pushed, push_checkpoint


class Client(BlockingClient):
    __doc__ = BlockingClient.__doc__

    def push_checkpoint(self, path: str | os.PathLike[str], id: str, **options: Any) -> Pushed:
        """stepserve.client.push.push_checkpoint by this client."""
        return push_checkpoint(path, id, client=self, **options)

    def shards(self, **options: Any) -> Iterator[ShardFile]:
        """`for shard in client.shards(): for record in shard: …`; client.inbox.shards says the options."""
        return shards(self, **options)
