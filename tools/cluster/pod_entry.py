"""Becomes a container's process: pod_entry.py SPEC, where SPEC is JSON.

Joins the pod's network, takes a mount namespace of its own, mounts what the container is to see, makes the root
read-only, and is then replaced by the command. Runs before anything of ours is imported, so it knows none of it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    _check(libc.mount(source.encode(), target.encode(), kind.encode(), flags, None), target)


def _enter(network: str) -> None:
    with Path("/run/netns", network).open() as handle:
        _check(libc.setns(handle.fileno(), CLONE_NEWNET), network)
    _check(libc.unshare(CLONE_NEWNS), "mount namespace")


def _show(source: str, target: str, is_read_only: bool, kept: Sequence[str]) -> None:
    """Mount `source` at `target`. Folders to be kept that this would hide are shown again on top of it."""
    hidden = [(os.open(path, os.O_PATH), path) for path in kept if Path(path).is_relative_to(target)]
    _mount(source, target, flags=MS_BIND | MS_REC)
    for handle, path in hidden:
        Path(path).mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{handle}", path, flags=MS_BIND | MS_REC)
        os.close(handle)
    if is_read_only:
        _mount("", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)


def main(spec: dict[str, object]) -> None:
    """Never returns: the command takes this process."""
    _enter(str(spec["network"]))
    kept = [str(path) for path in spec["kept"]]  # type: ignore[attr-defined]
    # Below these the image has folders that this machine need not have.
    for base in ("/opt", "/srv", "/var/run/secrets", "/etc/cuelight"):
        if Path(base).is_dir() and not any(Path(path).is_relative_to(base) for path in kept):
            _mount("tmpfs", base, "tmpfs")
    for source, target, is_read_only in spec["mounts"]:  # type: ignore[attr-defined]
        Path(target).mkdir(parents=True, exist_ok=True)
        _show(source, target, is_read_only, kept)
    if spec["read_only_root"]:
        _mount("", "/", flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
    os.chdir(str(spec["folder"]))
    command = [str(word) for word in spec["command"]]  # type: ignore[attr-defined]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
