"""A server behind TLS, as ``magenta-bento serve --tls`` starts it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import SERVE, Server, serving


@contextmanager
def serving_tls(folder: Path) -> Iterator[tuple[Server, Path]]:
    """The server, and the certificate that a client has to trust."""
    certificate = folder / "tls" / "localhost.pem"
    settings = {"TLS_DIR": str(certificate.parent)}
    with serving(folder, command=[*SERVE, "--tls"], certificate=certificate, **settings) as server:
        yield server, certificate
