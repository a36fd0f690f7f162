"""Owns what a parcel's manifest and its table look like as bytes, and the reading of those that anybody may have made.

The manifest is that of an artefact as OCI has it (https://github.com/opencontainers/image-spec/blob/main/manifest.md):
its config is the table, its layers are the packs. So registries keep it, copy it and collect its garbage as any other.
The table is JSON packed by zstd: which blocks each file has, and where they lie.
"""

import base64
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_readonly_vm.errors import RemoteError
from pytest_readonly_vm.remote.packing import BLOCK, LARGEST_PACK, digest_of, packed, unpacked
from pytest_readonly_vm.remote.parcel import MOST_FILES, Block, File, Manifest, Pack, is_file_name

_KIND = "application/vnd.oci.image.manifest.v1+json"
ARTEFACT = "application/vnd.pytest-readonly-vm.parcel.v1"
_TABLE = f"{ARTEFACT}.table+json+zstd"
_PACK = f"{ARTEFACT}.pack+zstd"
_OURS = "io.pytest-readonly-vm."
_KEY, _UNPACKED = f"{_OURS}key", f"{_OURS}unpacked"
_ABOUT = f"{_OURS}about."
_FORMAT = 1
_LARGEST_TABLE = 64 << 20  # unpacked; a block takes 60 bytes of it, so that is 16 GiB that are not zero
_LARGEST_FILE = 1 << 44
_LARGEST_BLOB = LARGEST_PACK + (1 << 16)  # what cannot be packed gets a little longer
_MOST_PACKS = 8192
_BLOCK = struct.Struct(">III32s")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Outline:
    """What a manifest says by itself."""

    key: str
    digest: str
    description: Mapping[str, str]
    table: Pack
    packs: tuple[Pack, ...]


def written(
    key: str, description: Mapping[str, str], facts: Mapping[str, Any], packs: list[Pack], files: Mapping[str, File]
) -> tuple[bytes, bytes]:
    """The manifest and the table of a parcel.

    :raises RemoteError: it is beyond what is read again.
    """
    content = {
        "format": _FORMAT,
        "block": BLOCK,
        "facts": facts,
        "files": {name: {"size": file.size, "blocks": _packed_blocks(file)} for name, file in files.items()},
    }
    plain = json.dumps(content, sort_keys=True).encode()
    if len(plain) > _LARGEST_TABLE or len(packs) > _MOST_PACKS:
        raise RemoteError(f"the frozen guest {key[:12]} is too large to travel: its table has {len(plain) >> 20} MiB")
    table = packed(plain)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _KIND,
        "artifactType": ARTEFACT,
        "config": _descriptor(_TABLE, Pack(digest_of(table), len(table), len(plain))),
        "layers": [_descriptor(_PACK, pack) for pack in packs],
        "annotations": {_KEY: key} | {f"{_ABOUT}{name}": text for name, text in description.items()},
    }
    return json.dumps(manifest, sort_keys=True).encode(), table


def _descriptor(kind: str, pack: Pack) -> dict[str, Any]:
    annotations = {_UNPACKED: str(pack.unpacked)}
    return {"mediaType": kind, "digest": pack.digest, "size": pack.size, "annotations": annotations}


def _packed_blocks(file: File) -> str:
    # Column by column, as neighbours are alike: zstd makes next to nothing of them but for the digests.
    columns = list(zip(*((one.number, one.pack, one.offset) for one in file.blocks), strict=True)) or [(), (), ()]
    numbers = b"".join(struct.pack(f">{len(file.blocks)}I", *_differences(column)) for column in columns)
    return base64.b64encode(numbers + b"".join(one.sha256 for one in file.blocks)).decode()


def _differences(column: tuple[int, ...]) -> list[int]:
    return [(one - before) % (1 << 32) for before, one in zip((0, *column), column, strict=False)]


def outline(body: bytes, key: str, what: str) -> Outline:
    """Read a manifest that lies under a key.

    :raises RemoteError: it is none, or one of another key, or beyond bounds.
    """
    try:
        content = json.loads(body)
        if content["config"]["mediaType"] != _TABLE:
            raise ValueError(f"it is something else ({content['config']['mediaType']})")
        annotations = content["annotations"]
        if annotations.get(_KEY) != key:
            raise ValueError("it is that of another key")
        if not isinstance(content["layers"], list):
            raise TypeError
        if len(content["layers"]) > _MOST_PACKS:
            raise ValueError("it has too many parts")
        packs = tuple(_pack(one, LARGEST_PACK, _LARGEST_BLOB) for one in content["layers"])
        table = _pack(content["config"], _LARGEST_TABLE, _LARGEST_TABLE)
        about = {name.removeprefix(_ABOUT): str(text) for name, text in annotations.items() if name.startswith(_ABOUT)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else "it is no manifest of a frozen guest"
        raise RemoteError(f"{what} is not what it should be: {reason}") from None
    return Outline(key, digest_of(body), about, table, packs)


def _pack(found: Mapping[str, Any], largest: int, largest_blob: int) -> Pack:
    digest, size, plain = found["digest"], found["size"], found["annotations"][_UNPACKED]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError("it has a part without a digest of SHA-256")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= largest_blob:
        raise ValueError("it has a part of an impossible size")
    if not isinstance(plain, str) or not re.fullmatch(r"[0-9]{1,9}", plain) or not 0 < int(plain) <= largest:
        raise ValueError("it has a part that would be too large when unpacked")
    return Pack(digest, size, int(plain))


def read(seen: Outline, table: bytes, what: str) -> Manifest:
    """The whole of what is known of a parcel, by its table, of which the digest has been compared.

    :raises RemoteError: it does not fit together.
    """
    try:
        content = json.loads(unpacked(table, seen.table.unpacked, what))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, and this version reads {_FORMAT}")
        block = content["block"]
        if not isinstance(block, int) or not 1 << 12 <= block <= LARGEST_PACK or block & (block - 1):
            raise ValueError("its blocks have an impossible length")
        if not isinstance(content["facts"], dict) or not 0 < len(content["files"]) <= MOST_FILES:
            raise ValueError("it has no files, or too many")
        files = {name: _file(name, found, block, seen.packs) for name, found in content["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
        reason = str(error) if type(error) is ValueError else "its table is none"
        raise RemoteError(f"{what} is not what it should be: {reason}") from None
    return Manifest(seen.key, seen.digest, seen.description, content["facts"], seen.packs, files, block)


def _file(name: str, found: Mapping[str, Any], block: int, packs: tuple[Pack, ...]) -> File:
    size = found["size"]
    if not is_file_name(name):
        raise ValueError(f"{name[:100]!r} is no name that a file of it may have")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST_FILE:
        raise ValueError(f"{name} has an impossible size")
    data = base64.b64decode(found["blocks"], validate=True)
    count, rest = divmod(len(data), _BLOCK.size)
    if rest:
        raise ValueError(f"{name} has no list of its blocks")
    columns = [_sums(struct.unpack_from(f">{count}I", data, 4 * count * place)) for place in range(3)]
    digests = (data[12 * count + 32 * place :][:32] for place in range(count))
    blocks, last = [], -1
    for number, pack, offset, sha256 in zip(*columns, digests, strict=True):
        length = min(block, size - number * block)
        if number <= last or length <= 0 or pack >= len(packs) or offset + length > packs[pack].unpacked:
            raise ValueError(f"{name} has a block that is nowhere")
        blocks.append(Block(number, pack, offset, sha256))
        last = number
    return File(size, tuple(blocks))


def _sums(column: tuple[int, ...]) -> list[int]:
    total, found = 0, []
    for one in column:
        total = (total + one) % (1 << 32)
        found.append(total)
    return found
