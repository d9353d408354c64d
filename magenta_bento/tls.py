"""A certificate for this machine, made here, for clients that insist on TLS.

Google's Python SDK connects by wss only. The certificate is its own authority: a client that
trusts the file trusts this server and no other, and a client that does not will not connect.

Invariant: the key is readable by its owner alone, and a pair is kept as long as it is valid.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = timedelta(days=397)
RENEW_BEFORE = timedelta(days=30)  # a server that starts is valid for a month at least
KEY_MODE = 0o600
_NAMES = ("localhost",)
_ADDRESSES = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


def local_pair(folder: Path) -> Pair:
    """The certificate of this machine, made on first use and again before it expires.

    Args:
      folder: Where the two files lie; it is made if need be.

    Raises:
      OSError: The folder or a file in it can't be written.
    """
    pair = Pair(folder / "localhost.pem", folder / "localhost.key")
    if not _is_valid(pair):
        folder.mkdir(parents=True, exist_ok=True)
        _make(pair)
    return pair


def _is_valid(pair: Pair) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        key = serialization.load_pem_private_key(pair.key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return False
    pair.key.chmod(KEY_MODE)
    return (
        certificate.public_key() == key.public_key()
        and certificate.not_valid_after_utc - RENEW_BEFORE > datetime.now(UTC)
    )


def _make(pair: Pair) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Magenta Bento on localhost")])
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in _NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in _ADDRESSES]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pair.key.unlink(missing_ok=True)  # written over, an old file would keep its mode
    with os.fdopen(os.open(pair.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_MODE), "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
