"""Valid files, harmed at random: bits flipped, pieces lost or drawn anew, numbers at the edge, JSON of other types."""

import gzip
import json
import random
from typing import Any

GZIP = b"\x1f\x8b"
"""How a compressed file begins."""
INTERESTING = (0, 1, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
VALUES: tuple[Any, ...] = (None, True, -1, 0, 3.5, 2**70, "", "..", "/", "\0", "x" * 300, [], {}, [[]], "nan", 1e308)


def harmed(content: bytes, others: tuple[bytes, ...], rng: random.Random) -> bytes:
    """A few changes in a row: of JSON, of what a compressed file holds, or of bytes."""
    if rng.random() < 0.5:
        for start in (b"{", b"["):
            if content.startswith(start):
                return harmed_json(content, rng)
    if content[:2] == GZIP and rng.random() < 0.8:
        return gzip.compress(harmed_bytes(gzip.decompress(content), others, rng), compresslevel=1)
    return harmed_bytes(content, others, rng)


def harmed_bytes(content: bytes, others: tuple[bytes, ...], rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        # Headers, which lie at the beginning, are where it hurts.
        place = min(int(rng.expovariate(1 / 200)), len(data)) if rng.random() < 0.5 else rng.randint(0, len(data))
        length = min(rng.choice((1, 2, 4, 8, 64, 1024)), len(data) - place)
        match rng.randrange(7):
            case 0 if length:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = rng.randbytes(length)
            case 3:
                data[place : place + length] = rng.randbytes(length)
            case 4:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice(INTERESTING) % 256**width
                data[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
            case 5:
                other = rng.choice(others)
                start = rng.randint(0, len(other))
                data[place : place + length] = other[start : start + length]
            case 6 if rng.random() < 0.3:
                del data[place:]
    return bytes(data)


def harmed_json(content: bytes, rng: random.Random) -> bytes:
    """Values are replaced, keys lost."""
    lines = []
    for line in content.decode().split("\n") if content.startswith(b'{"file') else [content.decode()]:
        value = json.loads(line) if line.strip() else {}
        place, key = value, None
        while isinstance(place, dict | list) and place and (key is None or rng.random() < 0.7):
            parent, key = place, rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            place = parent[key]
        if key is not None:
            if rng.random() < 0.3:
                del parent[key]
            else:
                parent[key] = rng.choice(VALUES)
        lines.append(json.dumps(value))
    return "\n".join(lines).encode()
