"""Evaluates a bundle: `python -m evaluation --bundle bundles/pocket`, also called `cuelight-eval`."""

from __future__ import annotations

from evaluation.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
