"""The names of cached blocks: SHA-256 chains over tagged, length-prefixed fields.

    root  = SHA-256(version, fingerprint, adapter, tenant, salt)
    key 0 = SHA-256(root,  token ids of block 0)
    key 1 = SHA-256(key 0, token ids of block 1)      so a key names a block *and* everything before it

Every field is one tag byte, its length in 8 little-endian bytes, then its bytes: no two field lists make the same text.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

FORMAT_VERSION = 1
MAX_TOKEN_ID = 2**32 - 1

_LENGTH = struct.Struct("<Q")
_TOKEN_BYTES = 4


def _field(tag: bytes, payload: bytes) -> bytes:
    return tag + _LENGTH.pack(len(payload)) + payload


_PARENT_HEAD = b"P" + _LENGTH.pack(sha256().digest_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDomain:
    """Everything besides tokens that K/V depend on, or that must keep two users apart.

    `fingerprint` names weights, weight format, KV format and kernel numerics. Equal domains may share blocks; others never.
    """

    fingerprint: bytes
    adapter: str = ""
    tenant: str = ""
    salt: str = ""

    def root(self) -> bytes:
        """Returns the digest that stands for "no tokens yet" in this domain."""
        fields = (
            _field(b"V", _LENGTH.pack(FORMAT_VERSION)),
            _field(b"F", self.fingerprint),
            _field(b"A", self.adapter.encode()),
            _field(b"N", self.tenant.encode()),
            _field(b"S", self.salt.encode()),
        )
        return sha256(b"".join(fields)).digest()


def block_key(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Returns the key of the block that holds `token_ids` (each in [0, 2**32)) after the tokens named by `parent`."""
    count = len(token_ids)
    tokens = struct.pack(f"<{count}I", *token_ids)
    return sha256(b"".join((_PARENT_HEAD, parent, b"T", _LENGTH.pack(count * _TOKEN_BYTES), tokens))).digest()
