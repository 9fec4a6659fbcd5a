"""What is kept of things made from bytes."""

from __future__ import annotations

from dit_worker.engine.recent import Recent


def test_the_last_used_are_kept_and_made_once() -> None:
    """Beyond the capacity the one longest unused is let go, not the oldest."""
    made: list[str] = []
    kept = Recent[str](2)

    def get(name: str) -> str:
        def make() -> str:
            made.append(name)
            return name.upper()

        return kept.get(name.encode(), make)

    assert [get(name) for name in "abacab"] == list("ABACAB")
    assert made == ["a", "b", "c", "b"]
