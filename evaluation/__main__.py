"""Evaluates a bundle: `python -m evaluation --bundle bundles/pocket`, also called `cuelight-eval`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command line; what it needs is an extra, which `make demo` does not install."""
    try:
        from evaluation.cli import main as run
    except ModuleNotFoundError as missing:
        print(
            f"cuelight-eval: {missing.name} is not installed: run make test, or pip install '.[evaluation]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    run()


if __name__ == "__main__":
    main()
