"""A host that runs out of disk, of descriptors, of decoders: the real server, and what it keeps."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
import requests
import soundfile
from audio_files import tone
from serving import Server, serving
from small_disk import SmallDisk, small_disk
from workers import worker_of

DISK_BYTES = 48_000_000
SECONDS = 20
LONGEST_FILE_BYTES = 100_000  # less than a second of upload, more than a log of one test
LIMIT_S = 30
NOT_MOUNTED = "nothing may be mounted here; the other way to fill a disk was tested"


@dataclass
class Host:
    """A server on a disk of its own, and the process that serves."""

    server: Server
    disk: SmallDisk | None
    worker: psutil.Process = field(init=False)

    def __post_init__(self) -> None:
        self.find_worker()

    def find_worker(self) -> None:
        self.server.wait_until_healthy()
        self.worker = worker_of(self.server)

    def upload(self, data: bytes, **how: Any) -> requests.Response:
        files = {"audio_file": ("a", data)}
        ask = how.pop("session", requests)
        return ask.post(f"{self.server.url}/embed/audio", files=files, timeout=LIMIT_S, **how)

    def generate(self, format: str = "wav") -> requests.Response:
        body = {"prompt": "funk", "duration": 1, "format": format}
        return requests.post(f"{self.server.url}/generate/text", json=body, timeout=LIMIT_S)

    @contextmanager
    def short_of(self, what: str) -> Iterator[None]:
        """While the context lasts, nothing can be written, or no file of any length."""
        if what == "room":
            if self.disk is None:
                pytest.skip(NOT_MOUNTED)
            with self.disk.full():
                yield
        else:
            with limited(self.worker, psutil.RLIMIT_FSIZE, LONGEST_FILE_BYTES):
                yield


@contextmanager
def limited(process: psutil.Process, what: int, bound: int) -> Iterator[None]:
    """A resource limit of a process that runs, set back at the end."""
    soft, hard = process.rlimit(what)
    process.rlimit(what, (bound, hard))
    try:
        yield
    finally:
        process.rlimit(what, (soft, hard))


@pytest.fixture(scope="module", name="host")
def _host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk", DISK_BYTES))
        # All that the server writes, but its log, is on the small disk.
        writes = (disk.folder if disk else folder) / "writes"
        temp = writes / "temp"
        temp.mkdir(parents=True)
        settings = {"MAX_STREAMS": "1", "BENTOML_HOME": str(writes / "bentoml")}
        running = stack.enter_context(
            serving(folder, fake_model=True, TMPDIR=str(temp), **settings)
        )
        running.temp = temp
        yield Host(running, disk)


@pytest.fixture(autouse=True)
def nothing_is_left(host: Host) -> Iterator[None]:
    """After each test the same process serves, uploads and music, and no file is left."""
    yield
    if not host.worker.is_running():
        host.find_worker()
        pytest.fail("the worker died, and another one was started")
    assert host.upload(wav(1)).status_code == 200
    assert host.generate().status_code == 200
    assert [path for path in host.server.temp.rglob("*") if path.is_file()] == []


def wav(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(seconds), 48_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def assert_told_to_come_back(answer: requests.Response) -> None:
    """In the one shape, with a time, and without what is none of the client's business."""
    told = answer.json()
    assert (answer.status_code, told["type"]) == (503, "overloaded"), told
    assert sorted(told) == ["detail", "error", "type"]
    assert int(answer.headers["Retry-After"]) > 0
    assert "Errno" not in answer.text
    assert "/" not in told["error"]


# Disk.


@pytest.mark.parametrize("what", ["room", "size"])
@pytest.mark.parametrize("seconds", [1, SECONDS])
def test_an_upload_is_refused_for_want_of_disk(host: Host, what: str, seconds: int) -> None:
    """A short one too, which is in memory as it arrives, but not as it is decoded."""
    with host.short_of(what):
        for _ in range(3):
            assert_told_to_come_back(host.upload(wav(seconds)))


@pytest.mark.parametrize("but", [1.2, 2.2, 3.2])
def test_room_that_ends_on_the_way_is_not_the_files_fault(host: Host, but: float) -> None:
    """Wherever the disk ends: as the upload is kept, handed on, or decoded."""
    if host.disk is None:
        pytest.skip(NOT_MOUNTED)
    data = wav(SECONDS)
    with host.disk.full(but_bytes=round(but * len(data))):
        assert_told_to_come_back(host.upload(data))


@pytest.mark.parametrize("what", ["room", "size"])
def test_music_needs_no_disk(host: Host, what: str) -> None:
    with host.short_of(what):
        for format in ("mp3", "wav", "flac", "ogg"):
            assert host.generate(format).status_code == 200
        for path in ("/health", "/readyz", "/metrics", "/docs"):
            assert requests.get(host.server.url + path, timeout=LIMIT_S).status_code == 200


# Descriptors.


def test_idle_connections_take_all_descriptors_and_give_them_back(host: Host) -> None:
    port = int(host.server.url.rsplit(":", 1)[1])
    with (
        limited(host.worker, psutil.RLIMIT_NOFILE, host.worker.num_fds() + 20),
        ExitStack() as all_,
    ):
        for _ in range(60):
            all_.enter_context(socket.create_connection(("127.0.0.1", port)))
        with pytest.raises(requests.RequestException):  # nobody else gets in
            requests.get(f"{host.server.url}/health", timeout=2)
        all_.close()
        host.server.wait_until_healthy()
        assert host.generate().status_code == 200


def test_an_upload_without_a_descriptor_for_it_is_refused(host: Host) -> None:
    with requests.Session() as session:
        assert session.get(f"{host.server.url}/health", timeout=LIMIT_S).status_code == 200
        with limited(host.worker, psutil.RLIMIT_NOFILE, host.worker.num_fds()):
            assert_told_to_come_back(host.upload(wav(SECONDS), session=session))


# Decoders.


def test_an_upload_whose_decoder_is_killed_is_answered(host: Host) -> None:
    data = wav(SECONDS)
    for _ in range(20):
        answers: list[requests.Response] = []
        asking = threading.Thread(target=lambda: answers.append(host.upload(data)))  # noqa: B023
        before = set(host.worker.children(recursive=True))
        asking.start()
        killed = kill_the_next_child(host.worker, before, asking)
        asking.join()
        (answer,) = answers
        if killed and answer.status_code != 200:
            assert answer.status_code in (400, 503), answer.text
            assert sorted(answer.json()) == ["detail", "error", "type"]
            return
    pytest.fail("no decoder was ever killed in time")


def kill_the_next_child(
    parent: psutil.Process, before: set[psutil.Process], while_: threading.Thread
) -> bool:
    while while_.is_alive():
        for child in set(parent.children(recursive=True)) - before:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
            return True
    return False


def test_no_decoder_outlives_its_upload(host: Host) -> None:
    assert host.upload(wav(SECONDS)).status_code == 200
    deadline = time.monotonic() + LIMIT_S
    while host.worker.children(recursive=True):
        assert time.monotonic() < deadline
        time.sleep(0.02)
