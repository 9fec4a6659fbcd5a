"""What makes a small picture cost much, read from its bytes before any of them is decoded. Knows no pixels."""

from __future__ import annotations

__all__ = ["MOST_SCANS", "has_too_many_scans"]

MOST_SCANS = 64
"""A progressive JPEG has about ten. Each of another hundred thousand may have 33 bytes and go over all pixels again."""
_JPEG = b"\xff\xd8"
_START_OF_SCAN = b"\xff\xda"


def has_too_many_scans(data: bytes) -> bool:
    """Say whether these are the bytes of a JPEG that would be gone over again and again; False for other formats."""
    return data.startswith(_JPEG) and data.count(_START_OF_SCAN) > MOST_SCANS  # in coded data 00 follows each ff
