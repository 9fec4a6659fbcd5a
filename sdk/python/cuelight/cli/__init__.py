"""The command line. Needs the extra ``cli``; says so in a sentence when it is missing."""

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``cuelight`` command."""
    try:
        from cuelight.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        sys.stderr.write("cuelight: the command line needs typer and rich: pip install 'cuelight[cli,media]'\n")
        raise SystemExit(2) from error
    run()
