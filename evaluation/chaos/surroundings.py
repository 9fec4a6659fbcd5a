"""What processes take from their machine and a test may take away: the clock, and room on a disk.

Both ask for what not every machine has (a C compiler; leave to mount a tmpfs): `None` says that it is missing.
It knows no processes.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import struct
import subprocess
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
DISK_BYTES = 512 * 1024 * 1024


class Clocks:
    """A wall clock for each process, that can be stepped while it runs; monotonic clocks are left alone."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._folder, self._library = folder, library

    @classmethod
    def build(cls, folder: Path) -> Clocks | None:
        """Clocks, where there is a C compiler."""
        library = folder / "clock.so"
        compiler = shutil.which("cc")
        if compiler is None:
            return None
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
        return cls(folder, library)

    def environment(self, name: str) -> dict[str, str]:
        """What makes a process read its own clock."""
        self._file(name).write_bytes(struct.pack("<q", 0))
        return {"LD_PRELOAD": str(self._library.resolve()), "CLOCK_OFFSET_FILE": str(self._file(name).resolve())}

    def step(self, name: str, offset_s: float) -> None:
        """Set how far a process's clock is from the true one, at once."""
        with self._file(name).open("r+b") as file:
            file.write(struct.pack("<q", round(1e6 * offset_s)))

    def _file(self, name: str) -> Path:
        return self._folder / f"clock-{name}"


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of its own in memory, mounted for as long as the context holds; None where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def _fill(file: RawIOBase) -> None:
    """Writes until no room is left. Raises OSError for other reasons."""
    try:
        while True:
            file.write(bytes(1 << 20))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """No byte is left on the disk for as long as the context holds.

    It is written full and not measured first: others write to it at the same time.
    """
    ballast = disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            _fill(file)
        yield
    finally:
        ballast.unlink()
