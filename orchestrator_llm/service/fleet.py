"""What a swap asks of the other orchestrators of a deployment: to follow it, and to say how they fare.

It knows no store; `follower.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from services.errors import CuelightError, Status
from services.state.planning import Kind


class SwapUnderWay(CuelightError):
    """Another swap has not ended."""

    status = Status.FAILED_PRECONDITION
    reason = "SWAP_UNDER_WAY"


@dataclass(frozen=True, slots=True)
class Others:
    """How the other replicas follow a swap."""

    count: int = 0
    behind: int = 0
    """Those that are still making ready what comes into use."""
    moved: int = 0
    """Their live sessions that have moved."""
    to_move: int = 0
    """Their live sessions that are to move."""
    fault: str = ""
    """What is wrong with it at one of them."""


class Fleet(Protocol):
    """The deployment, as the replica sees it that leads a swap."""

    def check_free(self, kind: Kind) -> None:
        """Raises SwapUnderWay while another replica leads a swap of this kind."""

    async def begin(self, kind: Kind, name: str, percent: int) -> None:
        """From now on all replicas have so many sessions in a hundred use it, on trial.

        Raises SwapUnderWay when another replica was faster.
        """

    async def settle(self, kind: Kind, name: str, percent: int) -> None:
        """It stays in use, on this share of the sessions."""

    async def back(self, kind: Kind) -> None:
        """All replicas are back where they were. Never raises: what cannot be told now is told later."""

    def others(self, kind: Kind) -> Others:
        """How the other replicas fare, as of the last second."""


class Alone:
    """A deployment of this one process."""

    def check_free(self, kind: Kind) -> None:
        """Nobody else leads."""

    async def begin(self, kind: Kind, name: str, percent: int) -> None:
        """Nobody else follows."""

    async def settle(self, kind: Kind, name: str, percent: int) -> None:
        """Nobody else follows."""

    async def back(self, kind: Kind) -> None:
        """Nobody else follows."""

    def others(self, kind: Kind) -> Others:
        """None."""
        return Others()
