"""Owns parcels that no guest has made: files with holes, random bytes and what they have in common."""

import os
import random
from pathlib import Path

from pytest_readonly_vm.remote.parcel import Parcel

KEY, ABOVE = "a" * 64, "b" * 64
BLOCK = 1 << 14


def memory(seed: int, *, blocks: int = 700, every: int = 3, changed: int = 0) -> bytes:
    """Zeros with a random block in each so many; of which the last `changed` are others."""
    data = bytearray(blocks * BLOCK + 100)
    chance = random.Random(seed)
    places = range(0, blocks, every)
    for place in places:
        data[place * BLOCK : place * BLOCK + BLOCK] = chance.randbytes(BLOCK)
    for place in places[len(places) - changed :]:
        data[place * BLOCK : place * BLOCK + 8] = b"changed!"
    return bytes(data)


def parcel(folder: Path, files: dict[str, bytes], *, key: str = KEY, below: tuple[str, ...] = ()) -> Parcel:
    """One of such files. Its descriptors live as long as the process."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptors = {}
    for name, content in files.items():
        path = folder / f"{key[:4]}-{name}"
        with path.open("wb") as file:
            file.truncate(len(content))
            for start in range(0, len(content), BLOCK):
                if any(block := content[start : start + BLOCK]):
                    file.seek(start)
                    file.write(block)
        descriptors[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return Parcel(key, {"image": "debian.qcow2", "layer": "one + two"}, {"ready_after": 1.5}, descriptors, below)


FILES = {"ram": memory(1), "state": b"devices" * 1000, "console": b"", "ssh-key.pub": b"ssh-ed25519 AAAA"}
CHANGED = {**FILES, "ram": memory(1, changed=3)}
