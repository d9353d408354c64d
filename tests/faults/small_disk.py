"""A file system that a test can fill to the last byte.

Invariant: it is unmounted when the context is left.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE_BYTES = 4096


class SmallDisk:
    """A mounted tmpfs.

    Args:
      folder: Where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    @property
    def free_bytes(self) -> int:
        told = os.statvfs(self.folder)
        return told.f_bavail * told.f_bsize

    @contextmanager
    def full(self, but_bytes: int = 0) -> Iterator[None]:
        """Has so much room, and no more, until the context is left."""
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.free_bytes - but_bytes)
        assert abs(self.free_bytes - but_bytes) < 2 * PAGE_BYTES
        try:
            yield
        finally:
            self._filler.unlink()


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[SmallDisk | None]:
    """A disk of so many bytes; None where nothing may be mounted."""
    folder.mkdir()
    if not _mount(folder, size_bytes):
        yield None
        return
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(folder: Path, size_bytes: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
