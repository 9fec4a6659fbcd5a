"""Proves the chart on a real control plane: python -m tools.cluster BINARIES [--only NAME ...].

BINARIES is the folder that build.sh prints. Every scenario has a viewer who must lose nothing; what was measured is
printed as a table and written to out/cluster. The exit status is 1 when anything was lost, or did not happen in time.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

from cuelight.cli.console import EXIT_INTERRUPTED, run_async
from tools.cluster import network
from tools.cluster.container import ROOT
from tools.cluster.performance import SCENARIOS, perform

TOOLS = ("ip", "unshare", "nsenter", "mount", "redis-server")
PACKAGES = ("iproute2", "util-linux", "mount", "redis-server")


def main(arguments: list[str]) -> int:
    """Run the chosen scenarios in namespaces of their own."""
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__.partition("\n")[0])
    parser.add_argument("binaries", type=Path, nargs="?", help="the folder that build.sh prints")
    parser.add_argument("--check", action="store_true", help="only say whether this machine can do it")
    parser.add_argument("--only", nargs="+", choices=sorted(SCENARIOS), help="scenarios to run; all by default")
    chosen = parser.parse_args(arguments)
    if chosen.check:
        return _checked()
    if chosen.binaries is None:
        parser.error("name the folder of the binaries; tools/cluster/build.sh makes it")
    for program in ("kube-scheduler", "prometheus"):
        if not (chosen.binaries / program).exists():
            parser.error(f"{chosen.binaries} holds no {program}; tools/cluster/build.sh makes one")
    missing = _missing()
    if missing:
        parser.error(missing)
    network.enter(arguments)
    folder = ROOT / "out" / "cluster"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        return run_async(perform(chosen.binaries.resolve(), folder, chosen.only or list(SCENARIOS)))
    except asyncio.CancelledError:
        sys.stderr.write("cluster: stopped.\n")
        return EXIT_INTERRUPTED


def _missing() -> str:
    """What is not installed; empty when nothing is missing."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{', '.join(missing)}: not installed (Debian: {' '.join(PACKAGES)})" if missing else ""


def _checked() -> int:
    """Say whether this machine can run the simulation, and why not; the exit status says it too."""
    reason = _missing() or network.hindrance()
    print(f"cluster: not here: {reason}" if reason else "cluster: this machine can run it")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
