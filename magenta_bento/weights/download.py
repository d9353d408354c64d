"""Fetches a model's files from the Hugging Face hub into upstream's layout.

1. Ask the hub for the commit, size and checksum of each file at the wanted revision.
2. Keep every file in place whose bytes have that checksum, whoever put it there.
3. Check that the disk has room for the others.
4. Transfer each into a partial file, check its bytes, and only then move it into place.

``hf_hub_download`` deletes its partial file when a process ends, which for 10 GB means starting
over. So the transfer is done by huggingface_hub's own ``http_get``, which can start at any byte,
into a partial file that has the checksum in its name and stays when the process ends.
HF_ENDPOINT, HF_TOKEN and proxies mean what they mean to every other huggingface_hub program.

Invariant: a file in place is always whole and of one revision; no message holds a token.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: see below
    HfHubHTTPError,
    HTTPError,  # that of the httpx which huggingface_hub uses; it is not marked as exported
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
    WeakFileLock,
    build_hf_headers,
)

from magenta_bento.config import Settings
from magenta_bento.errors import WeightsError
from magenta_bento.weights.catalog import DEMO, ModelFiles, fault_of, home, locate

REPO_ID = "google/magenta-realtime-2"

_SHA256 = re.compile(r"[0-9a-f]{64}")  # the ETag of a file in LFS or Xet storage
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")  # the ETag of a file in git itself
_HASH_CHUNK_BYTES = 1 << 20
_CONTINUES = "run the same command again, it continues where it stopped"


@dataclass(frozen=True)
class _RemoteFile:
    """A file on the hub.

    Attributes:
      repo_path: Its path in the hub's repository.
      destination: Where it belongs on this machine.
      url: Its address, at one commit.
      etag: What the hub identifies its bytes by: a checksum, on Hugging Face's own hub.
      size_bytes: Its size.
    """

    repo_path: str
    destination: Path
    url: str
    etag: str
    size_bytes: int

    @property
    def name(self) -> str:
        return self.destination.name

    def is_at(self, path: Path) -> bool:
        """Whether the file at ``path`` has the same bytes; reads all of it."""
        if not path.is_file() or path.stat().st_size != self.size_bytes:
            return False
        if _SHA256.fullmatch(self.etag):
            return _digest(path, "sha256") == self.etag
        if _GIT_SHA1.fullmatch(self.etag):
            return _digest(path, "sha1", b"blob %d\0" % self.size_bytes) == self.etag
        # A mirror identifies files in a way of its own: the size and the format have to do.
        return fault_of(path) is None


def download(
    name: str,
    settings: Settings,
    *,
    say: Callable[[str], None] = lambda line: None,
    endpoint: str | None = None,
) -> ModelFiles:
    """Fetches those files of a model that aren't in place: its checkpoint and MusicCoCa's six.

    SpectroStream's decoder is inside the checkpoint (params/soundstream); the hub's
    resources/spectrostream is for MLX.

    Args:
      name: "mrt2_base" or "mrt2_small".
      settings: ``magenta_home`` is the destination, ``magenta_revision`` the hub's revision.
      say: Receives one line for each file. Progress bars are shown by huggingface_hub itself,
        in a terminal.
      endpoint: The hub's address; None for HF_ENDPOINT's or the public one.

    Raises:
      WeightsError: The hub refuses or can't be reached, the revision doesn't exist, or the disk
        is full. What was transferred is kept, and the next call continues from there.
    """
    files = locate(name, settings)
    if name == DEMO:
        raise WeightsError("the demo comes with magenta-bento: there is nothing to download")
    root = home(settings)
    try:
        remotes = _remote_files(files, root, settings.magenta_revision, endpoint)
    except _HubUnreachable as error:
        if files.missing():
            raise
        say(f"{error}; every file of {name} is there and whole, but compared with nothing")
        return files
    to_fetch = []
    for remote in remotes:
        if remote.is_at(remote.destination):
            say(f"{remote.repo_path}: already there")
        else:
            to_fetch.append(remote)
    with _in_one_sentence(settings.magenta_revision, root, endpoint):
        _check_free_space(to_fetch, root)
        for remote in to_fetch:
            say(f"{remote.repo_path}: {remote.size_bytes / 1e6:,.1f} MB")
            _fetch(remote, root)
    return files


def _remote_files(
    files: ModelFiles, root: Path, revision: str, endpoint: str | None
) -> list[_RemoteFile]:
    """A model's files on the hub, all at the one commit that ``revision`` means now."""
    remotes = []
    commit = revision
    for destination in files.all:
        repo_path = destination.relative_to(root).as_posix()
        url = hf_hub_url(REPO_ID, repo_path, revision=commit, endpoint=endpoint)
        with _in_one_sentence(revision, root, endpoint, repo_path):
            meta = get_hf_file_metadata(url, endpoint=endpoint)
        if meta.commit_hash is None or meta.etag is None or meta.size is None:
            raise WeightsError(
                f"{_host(endpoint)} doesn't answer like a Hugging Face hub: check HF_ENDPOINT"
            )
        commit = meta.commit_hash
        # The metadata's location is a signed address that expires during a long transfer. With
        # this one each attempt is redirected anew, and the token is sent to the hub's host only.
        url = hf_hub_url(REPO_ID, repo_path, revision=commit, endpoint=endpoint)
        remotes.append(_RemoteFile(repo_path, destination, url, meta.etag, meta.size))
    return remotes


def _fetch(remote: _RemoteFile, root: Path) -> None:
    """Transfers one file, from where an earlier attempt stopped, and puts it in place."""
    partial = _partial(remote, root)
    partial.parent.mkdir(parents=True, exist_ok=True)
    remote.destination.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(partial.parent / f"{remote.name}.lock"):
        if remote.is_at(remote.destination):  # another process has fetched it meanwhile
            return
        done_bytes = _size(partial)
        if done_bytes > remote.size_bytes:
            partial.unlink()
            done_bytes = 0
        with partial.open("ab") as file:
            http_get(
                remote.url,
                file,
                resume_size=done_bytes,
                # A compressed transfer could not be continued, and has another size.
                headers={**build_hf_headers(), "Accept-Encoding": "identity"},
                expected_size=remote.size_bytes,
                displayed_filename=remote.name,
            )
        if not remote.is_at(partial):
            partial.unlink()
            raise WeightsError(
                f"{remote.repo_path} was damaged on its way (its checksum differs): "
                "run the same command again"
            )
        partial.replace(remote.destination)
        for stale in partial.parent.glob(f"{remote.name}.*.partial"):
            stale.unlink()  # what was begun of another revision


def _check_free_space(to_fetch: list[_RemoteFile], root: Path) -> None:
    need_bytes = sum(r.size_bytes - _size(_partial(r, root)) for r in to_fetch)
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < need_bytes:
        raise WeightsError(
            f"{root} has {free_bytes / 1e6:,.0f} MB free, {need_bytes / 1e6:,.0f} MB more are "
            "needed: free some space or set MAGENTA_HOME to another disk"
        )


def _partial(remote: _RemoteFile, root: Path) -> Path:
    # With the checksum in its name, a transfer never continues bytes of another revision. It is
    # under the root, so that moving it into place is a rename.
    tag = hashlib.sha256(remote.etag.encode()).hexdigest()[:16]
    return root / ".cache" / "magenta-bento" / f"{remote.name}.{tag}.partial"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, algorithm: str, prefix: bytes = b"") -> str:
    digest = hashlib.new(algorithm, prefix, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class _HubUnreachable(WeightsError):
    """The hub did not answer, or could not; other errors are refusals."""


@contextmanager
def _in_one_sentence(
    revision: str, root: Path, endpoint: str | None, repo_path: str = "a file"
) -> Iterator[None]:
    """Turns each error of huggingface_hub and of the disk into a WeightsError of one sentence.

    Their own messages aren't passed on: they span lines, and may quote addresses or headers.
    """
    host = _host(endpoint)
    try:
        yield
    except RevisionNotFoundError:
        raise WeightsError(
            f"{REPO_ID} has no revision {revision!r}: check MAGENTA_REVISION"
        ) from None
    except RemoteEntryNotFoundError:
        raise WeightsError(
            f"{REPO_ID} has no {repo_path} at revision {revision!r}: check MAGENTA_REVISION"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise WeightsError(
                f"{host} refuses access to {REPO_ID} (HTTP {status}): accept the model's terms "
                "on its page if it asks for that, and set HF_TOKEN to a token that may read it"
            ) from None
        if status == 404:
            raise WeightsError(f"{host} has no {REPO_ID}: check HF_ENDPOINT") from None
        raise _HubUnreachable(f"{host} answers HTTP {status}: {_CONTINUES}") from None
    except OfflineModeIsEnabled:
        raise _HubUnreachable("HF_HUB_OFFLINE is set, so nothing can be downloaded") from None
    except HTTPError as error:
        raise _HubUnreachable(
            f"{host} can't be reached ({type(error).__name__}): check the network, HF_ENDPOINT "
            f"and HTTPS_PROXY; then {_CONTINUES}"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise WeightsError(
                f"the disk of {root} is full: free some space, then {_CONTINUES}"
            ) from None
        if error.strerror is None:  # raised by http_get when fewer bytes came than announced
            raise _HubUnreachable(f"{host} ended a transfer early: {_CONTINUES}") from None
        raise WeightsError(f"{root} can't be written: {error.strerror}") from None


def _host(endpoint: str | None) -> str:
    """The hub's host and port, without the user name that an address may contain."""
    return urlsplit(endpoint or constants.ENDPOINT).netloc.rpartition("@")[2] or "the hub"
