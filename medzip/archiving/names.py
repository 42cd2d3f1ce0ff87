"""Names of archives: keyed digests, so that a listing, a log or a bucket's inventory tells nothing about a patient.

HMAC-SHA256 (RFC 2104, FIPS 198-1) with a site key. A plain digest of a UID could be looked up by whoever knows the UID.
"""

from __future__ import annotations

import hashlib
import hmac

from medzip.outputs import SUFFIX

DIGITS = 32


def digest(key: bytes, kind: str, identity: str) -> str:
    """32 hexadecimal digits (128 bits) that stand for a series, a file or a folder outside the archives."""
    return hmac.new(key, f"{kind}\0{identity}".encode(), hashlib.sha256).hexdigest()[:DIGITS]


def archive_name(stem: str, part: int) -> str:
    """POSIX path of an archive below DST; parts from 2 on are what came when the parts before were committed."""
    return f"{stem[:2]}/{stem}{'' if part == 1 else f'-{part}'}{SUFFIX}"


def shard_of(stem: str, count: int) -> int:
    """Which of `count` shards, from 1, a digest belongs to."""
    return int(stem[:8], 16) % count + 1


def stem_of(name: str) -> str:
    """The digest in the name of an archive."""
    return name.rpartition("/")[2][:DIGITS]
