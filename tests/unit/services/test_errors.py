"""The error tree."""

from __future__ import annotations

import re

import grpc
import pytest

from services import errors
from services.errors import CuelightError, InvalidInput, NoCapacity, OffsetExpired, error_from_reason

LEAVES = [
    getattr(errors, name) for name in errors.__all__ if name not in ("CuelightError", "Status", "error_from_reason")
]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_error_is_in_the_tree(leaf: type[CuelightError]) -> None:
    """Each error stands in the module's picture with its status, which gRPC knows, and its reason is a constant."""
    assert re.search(rf"[├└]── {leaf.__name__} +{leaf.status} ", errors.__doc__ or "")
    assert leaf.status.value in grpc.StatusCode.__members__
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)+|DRAINING|PREEMPTED|SUPERSEDED", leaf.reason)


def test_reasons_are_unique() -> None:
    """A reason names one error, so that a client can tell them apart."""
    assert len({leaf.reason for leaf in LEAVES}) == len(LEAVES)


def test_errors_come_back_from_their_reason() -> None:
    """Every reason gives its error again, with what it carried; a strange one gives none."""
    for leaf in LEAVES:
        back = error_from_reason(leaf.reason, "why", {"oldest_offset": "3", "field": "f"}, retry_after_s=4.0)
        assert type(back) is leaf
        assert back.message == "why"
    assert error_from_reason("SOMETHING_ELSE", "why", {}) is None
    old = error_from_reason("OFFSET_EXPIRED", "why", {"oldest_offset": "not a number"})
    assert isinstance(old, OffsetExpired)


def test_only_errors_with_a_delay_are_retryable() -> None:
    """What trying again cannot help says so."""
    assert NoCapacity("full").retry_after_s == 2.0
    assert NoCapacity("full", retry_after_s=9).retry_after_s == 9
    assert not InvalidInput("bad", field="f").is_retryable
