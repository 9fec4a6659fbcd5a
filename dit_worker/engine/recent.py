"""What was made from bytes that come again and again: portraits and voices, the last used of them.

It knows neither the bytes' meaning nor what is made of them. Not for several threads.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Values by the digest of what they were made from; beyond `capacity` the one longest unused is let go."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[bytes, V] = OrderedDict()

    def get(self, source: bytes, make: Callable[[], V]) -> V:
        """The value of these bytes, made now when it is not there."""
        key = hashlib.sha256(source).digest()
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)
        return self._values[key]
