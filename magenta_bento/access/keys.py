"""Which API keys there are, and the name of the key that a client presents.

A key is kept as its SHA-256 digest, whether it was given as the key itself or as the digest:
what a client presents is hashed too, and digests are compared in constant time. Keys are long
random strings, so that a fast hash without salt does.

Invariant: no key leaves this module; what others see is its name.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from magenta_bento.errors import ConfigError

log = logging.getLogger("magenta_bento")

DIGEST_PREFIX = "sha256:"
DIGEST_HEX_CHARS = 64
SHORT_KEY_CHARS = 16  # about 95 bits, if drawn from letters and digits
MAX_NAME_CHARS = 64
LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class _Key:
    name: str
    digest: bytes


class KeyRing:
    """The keys of a server.

    Args:
      listed: Keys separated by commas: ``key`` or ``name:key``, where ``sha256:<hex>`` may stand
        for a key. One without a name is called after its place: ``key1``.
      file: More of them, one a line; empty lines and lines that begin with ``#`` don't count.

    Raises:
      ConfigError: An entry can't be read, two have one name, or there is none.
    """

    def __init__(self, listed: str, file: Path | None = None) -> None:
        self._listed = _parse(listed.split(","), "API_KEYS", "key")
        self._file = file
        self._read_stamp: tuple[int, ...] = ()
        self._look_next = 0.0
        self._last_error = ""
        self._keys = self._listed
        if file is not None:
            self._read(file)
        if not self._keys:
            raise ConfigError("ENABLE_AUTH: API_KEYS and API_KEYS_FILE hold no key")

    async def name_of(self, presented: str) -> str | None:
        """The name of a key; None if there is no such key."""
        if self._file is not None and time.monotonic() >= self._look_next:
            self._look_next = time.monotonic() + LOOK_EVERY_S
            await asyncio.to_thread(self._look, self._file)
        digest = hashlib.sha256(presented.encode(errors="surrogateescape")).digest()
        name = None
        for key in self._keys:  # all of them: the time tells nothing about which one it is
            if hmac.compare_digest(key.digest, digest):
                name = key.name
        return name

    def _look(self, file: Path) -> None:
        """Reads the file again if it has changed; one that can't be used changes nothing."""
        try:
            if _stamp(file) != self._read_stamp:
                self._read(file)
                log.info("API_KEYS_FILE has changed: there are %d keys", len(self._keys))
            self._last_error = ""
        except (ConfigError, OSError) as error:
            if str(error) != self._last_error:  # once, not each time that it is looked at
                log.error("API_KEYS_FILE can't be used, the keys stay as they were: %s", error)
            self._last_error = str(error)

    def _read(self, file: Path) -> None:
        try:
            stamp = _stamp(file)
            lines = file.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"API_KEYS_FILE: {file} can't be read: {error}") from error
        entries = [line for line in lines if not line.lstrip().startswith("#")]
        keys = [*self._listed, *_parse(entries, "API_KEYS_FILE", "filekey")]
        names = [key.name for key in keys]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"API_KEYS_FILE: two keys are called {min(twice)}")
        self._read_stamp, self._keys = stamp, keys


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes with a file; Kubernetes swaps a link, so that the inode counts."""
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _parse(entries: list[str], variable: str, default_name: str) -> list[_Key]:
    """The keys of a list; an error names an entry by its place, never by what it holds."""
    keys: list[_Key] = []
    for place, entry in enumerate(filter(None, map(str.strip, entries)), 1):
        name, colon, secret = entry.partition(":")
        if not colon or f"{name}:" == DIGEST_PREFIX:
            name, secret = f"{default_name}{place}", entry
        name, secret = name.strip(), secret.strip()
        where = f"{variable}: entry {place}"
        if not name.isprintable() or not 0 < len(name) <= MAX_NAME_CHARS:
            raise ConfigError(f"{where}: a name has 1 to {MAX_NAME_CHARS} printable characters")
        if not secret:
            raise ConfigError(f"{where}: the key is empty")
        if name in (key.name for key in keys):
            raise ConfigError(f"{where}: two keys are called {name}")
        keys.append(_Key(name, _digest(secret, where)))
    return keys


def _digest(secret: str, where: str) -> bytes:
    if not secret.startswith(DIGEST_PREFIX):
        if not (secret.isascii() and secret.isprintable()):
            # A header holds no others, or each client's library writes them its own way.
            raise ConfigError(f"{where}: a key has printable ASCII characters only")
        if len(secret) < SHORT_KEY_CHARS:
            log.warning("%s: a key of %d characters may be guessed", where, len(secret))
        return hashlib.sha256(secret.encode()).digest()
    digits = secret.removeprefix(DIGEST_PREFIX)
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if len(digest) * 2 != DIGEST_HEX_CHARS:
        raise ConfigError(f"{where}: {DIGEST_PREFIX} needs {DIGEST_HEX_CHARS} hexadecimal digits")
    return digest
