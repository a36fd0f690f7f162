"""Owns the words of NBD's protocol, both sides': https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md"""

import struct

MAGIC = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
REPLY_MAGIC = 0x3E889045565A9

FIXED_NEWSTYLE, NO_ZEROES = 1, 2
"""Flags of the handshake, the same for both."""

EXPORT_NAME, ABORT, STARTTLS, INFO, GO = 1, 2, 5, 6, 7
"""Options."""

ACK, OF_INFO = 1, 3
UNSUPPORTED, POLICY, UNKNOWN, TLS_REQUIRED = (1 << 31 | number for number in (1, 2, 6, 5))
INVALID, SHUTDOWN = (1 << 31 | number for number in (3, 7))
"""Replies to options."""

OF_EXPORT, OF_BLOCKS = 0, 3
"""The information that has size and flags; that which has the least, the best and the largest size of a read."""

HAS_FLAGS, READ_ONLY, MULTI_CONN = 1, 2, 1 << 8
"""Flags of an export."""

READ, WRITE, DISCONNECT = 0, 1, 2
EPERM, EIO, EINVAL = 1, 5, 22

OPTION = struct.Struct(">8sII")
OPTION_REPLY = struct.Struct(">QIII")
EXPORT = struct.Struct(">QH")
BLOCKS = struct.Struct(">HIII")
REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")
REQUEST_MAGIC, SIMPLE_REPLY_MAGIC = 0x25609513, 0x67446698

LONGEST_OPTION = 1 << 16
"""Bytes of what either side may say in the handshake; no honest one comes near."""
