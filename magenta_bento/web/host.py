"""A host that has no more room, files or memory to give.

Invariant: what is the host's fault is no fault of a request: its client is told to come again.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from magenta_bento.errors import Overloaded

log = logging.getLogger("magenta_bento")

EXHAUSTED = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
    )
)
RETRY_AFTER_S = 10


@contextmanager
def host_permitting() -> Iterator[None]:
    """Tells a client to come again when the host refuses what its request needs.

    Raises:
      Overloaded: In place of the host's OSError, which is for the log.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in EXHAUSTED:
            raise
        log.error("the host refuses: %s", error)
        raise Overloaded(
            "the server is short of disk space or of files", retry_after_s=RETRY_AFTER_S
        ) from error
