"""The stack that end-to-end tests share."""

from tests.fixtures.stack import stack, stack_bundle

__all__ = ["stack", "stack_bundle"]
