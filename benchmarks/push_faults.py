"""Pushes that are cut off, altered or not for what serves: none may change it, and none may serve what it is not."""

import http.client
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import torch
from safetensors.torch import save

from stepserve import Client
from stepserve.client.delta import DeltaPush, KeptWeights
from stepserve.client.weights import expected_weights
from stepserve.delta import MEDIA_TYPE

ROUTE = "/models/active/weights"
FLIPS, CUTS = 60, 20

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Fault:
    """`base`: it is a delta for the weights with that digest. `cut`: so many bytes are announced, and do not come."""

    kind: str
    body: bytes
    base: str | None = None
    cut: int = 0


def whole_faults(tensors: Tensors) -> Iterator[Fault]:
    """Of a body with everything. Numbers that are wrong and finite are not among them: the proof has to find those."""
    body, rng = save(dict(tensors)), random.Random(0)
    for _ in range(CUTS):
        end = rng.randrange(1, len(body))
        yield Fault("all tensors, cut off", body[:end], cut=len(body) - end)
        yield Fault("all tensors, the end missing", body[:end])
    for name, tensor in tensors.items():
        others = {each: there for each, there in tensors.items() if each != name}
        yield Fault("a tensor missing", save(others))
        yield Fault("a tensor twice", body + save({name: tensor}))
        yield Fault("a tensor misnamed", save({**others, f"{name}s": tensor}))
        yield Fault("a tensor of another shape", save({**others, name: tensor[:-1].contiguous()}))
        yield Fault("a tensor of another type", save({**others, name: tensor.half()}))
        broken = tensor.clone()
        broken.view(-1)[rng.randrange(broken.numel())] = float("nan")
        yield Fault("one number not finite", save({**others, name: broken}))


def delta_faults(body: bytes, base: str, other_base: str) -> Iterator[Fault]:
    """Of a right delta for `base`, one bit or the end of which is wrong, or which is sent for `other_base`."""
    rng = random.Random(0)
    for _ in range(CUTS):
        end = rng.randrange(1, len(body))
        yield Fault("a delta, cut off", body[:end], base, len(body) - end)
        yield Fault("a delta, the end missing", body[:end], base)
    for _ in range(FLIPS):
        altered = bytearray(body)
        altered[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        yield Fault("a delta, one bit altered", bytes(altered), base)
    segments = list(_segments(body))
    for number in range(len(segments) - 1):
        rest = segments[:number] + segments[number + 1 :]
        yield Fault("a delta, one change missing", b"".join(rest), base)
        yield Fault("a delta, one change twice", b"".join([*segments[: number + 1], *segments[number:]]), base)
    yield Fault("a delta for weights that do not serve", body, other_base)


def delta_of(client: Client, before: Tensors, after: Tensors) -> tuple[bytes, str]:
    """What makes `after` of `before`, which serves; and the digest that it is for."""
    expected = client.send(expected_weights())
    assert expected.delta_base is not None, "weights that were pushed serve"
    first = DeltaPush.of(before, expected, None, None, 1)
    for _ in first.body.pieces:
        pass
    kept = KeptWeights(expected.delta_base, 0, first._tensors)
    second = DeltaPush.of(after, expected, None, kept, 1)
    return b"".join(map(bytes, second.body.pieces)), expected.delta_base


def faulty_pushes(url: str, client: Client, sources: Sequence[Tensors]) -> None:
    """Prints a row for each kind: how many were refused, how many served what they were not."""
    first = client.push_weights(sources[0])
    body, base = delta_of(client, sources[0], sources[1])
    right = right_digest(client, sources)
    tried, refused, wrong = Counter[str](), Counter[str](), Counter[str]()
    with httpx.Client(base_url=url, timeout=120.0) as plain:
        for fault in [*whole_faults(sources[1]), *delta_faults(body, base, right)]:
            tried[fault.kind] += 1
            is_taken = send(plain, fault)
            now = client.send(expected_weights())
            refused[fault.kind] += not is_taken
            wrong[fault.kind] += now.digest != (right if is_taken else first.digest)
            if is_taken:
                client.push_weights(sources[0])
    for kind, count in tried.items():
        print(f"{kind}: {refused[kind]} of {count} refused, {wrong[kind]} left other weights than said")
    pushed = client.push_weights(sources[1])
    print(f"then a right push: version {pushed.version}, {pushed.digest == right}")


def right_digest(client: Client, sources: Sequence[Tensors]) -> str:
    digest = client.push_weights(sources[1]).digest
    client.push_weights(sources[0])
    return digest


def send(plain: httpx.Client, fault: Fault) -> bool:
    """Whether it was taken."""
    kind = MEDIA_TYPE if fault.base is not None else "application/octet-stream"
    params = {"base": fault.base} if fault.base is not None else {}
    if not fault.cut:
        return plain.put(ROUTE, params=params, content=fault.body, headers={"content-type": kind}).status_code == 200
    there = urlsplit(str(plain.base_url))
    connection = http.client.HTTPConnection(str(there.hostname), there.port)
    connection.putrequest("PUT", str(httpx.URL(ROUTE, params=params)))
    connection.putheader("content-type", kind)
    connection.putheader("content-length", str(len(fault.body) + fault.cut))
    connection.endheaders()
    connection.send(fault.body)
    with connection.sock as ended:
        ended.shutdown(socket.SHUT_WR)
        while ended.recv(65536):
            pass
    return False  # what serves tells


def _segments(body: bytes) -> Iterator[bytes]:
    """The safetensors files that it consists of."""
    position = 0
    while position < len(body):
        (length,) = struct.unpack_from("<Q", body, position)
        entries = json.loads(body[position + 8 : position + 8 + length])
        entries.pop("__metadata__", None)
        end = max((each["data_offsets"][1] for each in entries.values()), default=0)
        yield body[position : position + 8 + length + end]
        position += 8 + length + end
