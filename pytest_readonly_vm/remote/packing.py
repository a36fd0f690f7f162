"""Owns how blocks become a blob and blocks again: zstd, in bounds that the one who packs cannot move.

Small blobs cost a request each, and large ones are sent anew for a single page that is another. So blocks are small,
and what is new goes together in packs; see `docs/design.md`.
"""

import hashlib
import importlib
import sys
from typing import Any

from pytest_readonly_vm.errors import HostError, RemoteError

BLOCK = 1 << 14
"""Bytes of a block: what is compared with what lies at a place already."""
LARGEST_PACK = 1 << 23
"""Bytes that are packed together at most."""
_LEVEL = 3
_WINDOW_LOG = 23  # what `_LEVEL` uses at most for `LARGEST_PACK`, and all that unpacking may take


def packed(data: bytes) -> bytes:
    """The blob of some bytes; the same bytes make the same blob.

    :raises HostError: there is no zstd.
    """
    found: bytes = _zstd().compress(data, _LEVEL)
    return found


def unpacked(blob: bytes, size: int, what: str) -> bytes:
    """The bytes of a blob that has `size` of them.

    :raises RemoteError: it is damaged, or has another number.
    :raises HostError: there is no zstd.
    """
    zstd = _zstd()
    one = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    try:
        data: bytes = one.decompress(blob, size + 1)
    except zstd.ZstdError as error:
        raise RemoteError(f"{what} is damaged: zstd finds: {str(error).rstrip('.')}") from None
    if len(data) != size or not one.eof or one.unused_data:
        raise RemoteError(f"{what} is damaged: it has another length than {size} bytes when unpacked")
    return data


def digest_of(data: bytes) -> str:
    """``sha256:HEX``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _zstd() -> Any:
    try:
        return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        raise HostError(
            "frozen guests travel packed by zstd, for which Python needs: pip install 'pytest-readonly-vm[remote]'"
        ) from None
