"""The certificate of this machine: who trusts it, and when it is made anew."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from magenta_bento import tls
from magenta_bento.tls import Pair, local_pair


def handshake(pair: Pair, name: str, trusted: Path | None) -> None:
    """Connects to a server with this pair, as a client that trusts one file."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(pair.certificate, pair.key)
    client = ssl.create_default_context(cafile=trusted)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with serving.wrap_socket(theirs, server_side=True) as secure:
                secure.sendall(b"hello")
        except (ssl.SSLError, ConnectionError):  # the client did not trust it
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as secure:
            assert secure.recv(5) == b"hello"
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_client_that_trusts_the_file_trusts_the_server(tmp_path: Path, name: str) -> None:
    pair = local_pair(tmp_path)
    handshake(pair, name, pair.certificate)


def test_nobody_else_is_trusted(tmp_path: Path) -> None:
    pair, other = local_pair(tmp_path / "one"), local_pair(tmp_path / "other")
    for name, trusted in (
        ("example.org", pair.certificate),
        ("localhost", other.certificate),
        ("localhost", None),
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(pair, name, trusted)


def test_the_key_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    pair = local_pair(folder)
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["localhost.key", "localhost.pem"]


def test_a_key_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    key = tmp_path / "localhost.key"
    key.write_text("an old one")
    key.chmod(0o644)
    local_pair(tmp_path)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_valid_pair_is_kept(tmp_path: Path) -> None:
    pair = local_pair(tmp_path)
    before = pair.certificate.read_bytes(), pair.key.read_bytes()
    assert local_pair(tmp_path) == pair
    assert (pair.certificate.read_bytes(), pair.key.read_bytes()) == before


def test_a_pair_that_ends_soon_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "VALID", tls.RENEW_BEFORE - timedelta(hours=1))
    before = local_pair(tmp_path).certificate.read_bytes()
    monkeypatch.undo()
    pair = local_pair(tmp_path)
    assert pair.certificate.read_bytes() != before
    handshake(pair, "localhost", pair.certificate)


@pytest.mark.parametrize("spoil", ["no key", "no certificate", "rubbish", "another's key"])
def test_a_spoilt_pair_is_made_anew(tmp_path: Path, spoil: str) -> None:
    pair = local_pair(tmp_path / "ours")
    if spoil == "no key":
        pair.key.unlink()
    elif spoil == "no certificate":
        pair.certificate.unlink()
    elif spoil == "rubbish":
        pair.certificate.write_text("rubbish")
    else:
        pair.key.write_bytes(local_pair(tmp_path / "theirs").key.read_bytes())
    pair = local_pair(tmp_path / "ours")
    handshake(pair, "localhost", pair.certificate)
