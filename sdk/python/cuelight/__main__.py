"""``python -m cuelight`` is the command line."""

from cuelight.cli import main

main()
