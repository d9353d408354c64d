"""The process that forks decoders: what it survives, what it ends, and what its workers see."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from audio_files import by_ffmpeg, by_libsndfile, ffmpeg, tone
from decoding import all_gone, assert_idle, decode_upload, fork_server_of
from hostile_audio import FTYP, box, replace_box

from magenta_bento.audio import decode, decode_worker
from magenta_bento.audio.decode import DecodeLimits, Decoder
from magenta_bento.audio.limits import MAX_CHANNELS
from magenta_bento.errors import NotReady, Overloaded, UndecodableAudio

LIMITS = DecodeLimits(max_seconds=60)
PATIENCE_S = 30.0


@pytest.fixture(name="m4a")
def _m4a(tmp_path: Path) -> Path:
    """Audio that ffmpeg is needed for."""
    return by_ffmpeg(tmp_path / "a.m4a", tone(0.5), 48_000, "-c:a", "aac", "-f", "ipod")


@pytest.fixture(name="wav")
def _wav(tmp_path: Path) -> Path:
    """Audio that ffmpeg is not needed for."""
    return by_libsndfile(tmp_path / "a.wav", tone(0.5), 48_000, "WAV", "PCM_16")


StartWith = Callable[[str], Decoder]


@pytest.fixture(name="with_ffmpeg")
def _with_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartWith]:
    """A decoder whose ffmpeg is a script."""
    with contextlib.ExitStack() as stack:

        def start(script: str) -> Decoder:
            stub = tmp_path / "ffmpeg"
            stub.write_text(script)
            stub.chmod(0o755)
            monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(stub))
            return stack.enter_context(contextlib.closing(Decoder()))

        yield start


@pytest.fixture(name="with_worker")
def _with_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartWith]:
    """A decoder whose workers run a piece of Python instead of decoding."""
    with contextlib.ExitStack() as stack:

        def start(body: str) -> Decoder:
            script = tmp_path / "fork_server.py"
            lines = [
                "import json, os, signal, sys, time",
                "from magenta_bento.audio import decode_worker, fork_server",
                "def _decode(upload, out, limits):",
                *(f"    {line}" for line in body.splitlines()),
                "decode_worker._decode = _decode",
                "fork_server.main()",
            ]
            script.write_text("\n".join(lines))
            monkeypatch.setattr(decode, "_COMMAND", (sys.executable, str(script)))
            return stack.enter_context(contextlib.closing(Decoder()))

        yield start


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def refusal(decoder: Decoder, path: Path, limits: DecodeLimits = LIMITS) -> str:
    with pytest.raises(UndecodableAudio) as caught:
        decode_upload(path, limits, decoder)
    assert_idle(decoder)
    return caught.value.message


def test_one_fork_server_serves_many_uploads_at_once(tmp_path: Path, wav: Path) -> None:
    with contextlib.closing(Decoder()) as decoder:
        fork_server = fork_server_of(decoder)
        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(decode_upload, wav, LIMITS, decoder) for _ in range(64)]
            assert {job.result().samples.shape for job in jobs} == {(24_000, 2)}
        assert fork_server_of(decoder) == fork_server
        assert fork_server.num_threads() == 1
        assert_idle(decoder)


def test_uploads_are_decoded_beside_each_other(
    tmp_path: Path, m4a: Path, with_ffmpeg: StartWith
) -> None:
    """Each of these ffmpegs waits for the other one to have started."""
    decoder = with_ffmpeg(
        f"#!/bin/sh\ntouch {tmp_path}/started.$$\n"
        f"while [ $(ls {tmp_path}/started.* | wc -l) -lt 2 ]; do sleep 0.05; done\nexit 1\n"
    )
    limits = DecodeLimits(60, timeout_s=PATIENCE_S)
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda _: refusal_of(decoder, m4a, limits), range(2)))
    assert ["no audio that decodes" in message for message in told] == [True, True]


def refusal_of(decoder: Decoder, path: Path, limits: DecodeLimits) -> str:
    with pytest.raises(UndecodableAudio) as caught:
        decode_upload(path, limits, decoder)
    return caught.value.message


def test_a_hung_decoder_is_ended_with_its_ffmpeg(
    tmp_path: Path, m4a: Path, with_ffmpeg: StartWith
) -> None:
    decoder = with_ffmpeg(f"#!/bin/sh\necho $$ > {tmp_path}/started\nexec sleep 30\n")
    start = time.monotonic()
    assert "longer than 2 s" in refusal(decoder, m4a, DecodeLimits(60, timeout_s=2.0))
    assert time.monotonic() - start < 4.0
    assert not psutil.pid_exists(int((tmp_path / "started").read_text()))


def test_an_ffmpeg_that_never_ends_is_ended(m4a: Path, with_ffmpeg: StartWith) -> None:
    decoder = with_ffmpeg("#!/bin/sh\nwhile :; do :; done\n")
    limits = DecodeLimits(60, cpu_s=1, timeout_s=PATIENCE_S)
    assert "more than 1 s of processor time" in refusal(decoder, m4a, limits)


def test_an_ffmpeg_that_never_stops_writing_is_ended(m4a: Path, with_ffmpeg: StartWith) -> None:
    wav_head = ffmpeg("-f", "lavfi", "-i", "anullsrc", "-t", "0.01", "-f", "wav", "-").hex()
    decoder = with_ffmpeg(
        f"#!{sys.executable}\nimport os\nos.write(1, bytes.fromhex('{wav_head}'))\n"
        "while True: os.write(1, bytes(65536))\n"
    )
    with pytest.raises(Exception, match="at most 2 s"):
        decode_upload(m4a, DecodeLimits(2, timeout_s=PATIENCE_S), decoder)
    assert_idle(decoder)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGSEGV, "the decoder broke"),
        (signal.SIGABRT, "the decoder broke"),
        (signal.SIGKILL, "too much memory"),
    ],
)
def test_a_worker_that_crashes(
    number: int, told: str, tmp_path: Path, m4a: Path, with_ffmpeg: StartWith
) -> None:
    """Its ffmpeg, which has killed it, ends with it."""
    decoder = with_ffmpeg(
        f"#!/bin/sh\necho $$ > {tmp_path}/pid\nkill -{number} $PPID; exec sleep 30\n"
    )
    assert told in refusal(decoder, m4a)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("how", ["sh", "setsid -f sh"])
def test_what_a_worker_leaves_behind_is_ended(
    how: str, tmp_path: Path, m4a: Path, with_ffmpeg: StartWith
) -> None:
    """Even if the worker ends well, and what it leaves has a session of its own."""
    decoder = with_ffmpeg(
        "#!/bin/sh\nexec 2>/dev/null\n"
        f"{how} -c 'echo $$ > {tmp_path}/pid; exec sleep 30' >/dev/null </dev/null &\n"
        f"while [ ! -s {tmp_path}/pid ]; do sleep 0.02; done\nexit 1\n"
    )
    assert "no audio that decodes" in refusal(decoder, m4a)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_the_limits_of_a_worker(wav: Path, with_worker: StartWith) -> None:
    decoder = with_worker(
        "import resource\n"
        "names = ('CPU', 'AS', 'FSIZE', 'NOFILE', 'CORE')\n"
        "found = [resource.getrlimit(getattr(resource, f'RLIMIT_{n}'))[0] for n in names]\n"
        "session = os.getsid(0) == os.getpid()\n"
        "raise decode_worker.UndecodableAudio(json.dumps([found, session]))"
    )
    limits = DecodeLimits(60, cpu_s=3)
    found, leads_session = json.loads(refusal(decoder, wav, limits))
    assert found[:2] == [3, limits.memory_bytes]
    assert limits.max_decoded_bytes < found[2] < 2 * limits.max_decoded_bytes
    assert found[3:] == [64, 0]
    assert leads_session


def test_memory_is_bounded(wav: Path, with_worker: StartWith) -> None:
    decoder = with_worker("return bytes(limits.memory_bytes)")
    assert f"more than {LIMITS.memory_bytes >> 20} MiB of memory" in refusal(decoder, wav)


def test_processor_time_is_bounded(wav: Path, with_worker: StartWith) -> None:
    decoder = with_worker("while True: pass")
    limits = DecodeLimits(60, cpu_s=1, timeout_s=PATIENCE_S)
    assert "more than 1 s of processor time" in refusal(decoder, wav, limits)


def test_files_are_bounded(wav: Path, with_worker: StartWith) -> None:
    decoder = with_worker("while True: out.write(bytes(1 << 24))")
    assert "the decoder broke" in refusal(decoder, wav, DecodeLimits(60, timeout_s=PATIENCE_S))


@pytest.mark.parametrize(
    "verdict",
    [
        b"words",
        b"7",
        b"[]",
        b"{}",
        b'{"message": "x"}',
        b'{"rate_hz": 48000, "samples": 1, "channels": 1}',
        b'{"rate_hz": 48000, "samples": 0, "channels": 2}',
        b'{"rate_hz": 48000, "samples": -1, "channels": 0}',
        b'{"rate_hz": 1e999, "samples": 0, "channels": 2}',
        b'{"exit": "x"}',
    ],
)
def test_a_worker_that_lies(verdict: bytes, wav: Path, with_worker: StartWith) -> None:
    decoder = with_worker(f"os.write(decode_worker.VERDICT, {verdict!r})\nos._exit(0)")
    assert "the decoder broke" in refusal(decoder, wav)


@pytest.mark.parametrize(("rate_hz", "channels"), [(1, 2), (48_000, MAX_CHANNELS + 1)])
def test_a_worker_that_lies_about_its_samples(
    rate_hz: int, channels: int, wav: Path, with_worker: StartWith
) -> None:
    decoder = with_worker(f"out.write(bytes(4 * {channels}))\nreturn {rate_hz}, 1, {channels}")
    assert "the decoder broke" in refusal(decoder, wav)


def test_a_fork_server_that_was_killed_is_started_again(wav: Path) -> None:
    with contextlib.closing(Decoder()) as decoder:
        for _ in range(3):
            with all_gone(decoder):
                fork_server_of(decoder).kill()
                assert len(decode_upload(wav, LIMITS, decoder).samples) == 24_000


def test_a_fork_server_that_is_killed_while_it_serves(
    tmp_path: Path, m4a: Path, with_ffmpeg: StartWith
) -> None:
    """Its worker and ffmpeg end with it; the upload is decoded by the next one."""
    decoder = with_ffmpeg(
        f"#!/bin/sh\n[ -e {tmp_path}/started ] && exit 1\ntouch {tmp_path}/started\nexec sleep 30\n"
    )
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(refusal, decoder, m4a)
        until((tmp_path / "started").exists)
        with all_gone(decoder):
            fork_server_of(decoder).kill()
        assert "no audio that decodes" in job.result()


def test_a_fork_server_that_hangs_is_replaced(wav: Path) -> None:
    with contextlib.closing(Decoder()) as decoder:
        fork_server = fork_server_of(decoder)
        decode_upload(wav, LIMITS, decoder)
        fork_server.suspend()
        assert len(decode_upload(wav, DecodeLimits(60, timeout_s=1), decoder).samples) == 24_000
        assert fork_server_of(decoder) != fork_server
        assert not fork_server.is_running()


def test_no_fork_server_at_all(monkeypatch: pytest.MonkeyPatch, wav: Path) -> None:
    monkeypatch.setattr(decode, "_COMMAND", ("/bin/false",))
    with contextlib.closing(Decoder()) as decoder, pytest.raises(Overloaded) as caught:
        decode_upload(wav, LIMITS, decoder)
    assert caught.value.headers["Retry-After"] == "1"


def test_closing_ends_everything(tmp_path: Path, m4a: Path, with_ffmpeg: StartWith) -> None:
    decoder = with_ffmpeg(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 30\n")
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(decode_upload, m4a, LIMITS, decoder)
        until((tmp_path / "started").exists)
        with all_gone(decoder):
            decoder.close()
        with pytest.raises(NotReady):
            job.result()
    with pytest.raises(NotReady):
        decode_upload(m4a, LIMITS, decoder)
    decoder.close()


def test_a_server_that_is_killed_takes_all_along(
    tmp_path: Path, m4a: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "ffmpeg"
    stub.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 30\n")
    stub.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(stub))
    code = (
        "import sys\nfrom magenta_bento.audio.decode import DecodeLimits, Decoder\n"
        "Decoder().decode(open(sys.argv[1], 'rb'), DecodeLimits(60))"
    )
    server = psutil.Popen([sys.executable, "-c", code, str(m4a)])
    until((tmp_path / "started").exists)
    started = server.children(recursive=True)
    assert len(started) >= 3  # the fork server, its worker, ffmpeg
    server.kill()
    server.wait()
    until(lambda: not any(process.is_running() for process in started))


SPY = """#!{python}
import json, os, socket, sys, time
def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError as error:
        return type(error).__name__
try:
    socket.create_connection(("127.0.0.1", {port}), 1)
    connected = True
except OSError:
    connected = False
found = dict(
    environ=read("/proc/self/environ"),
    server=read("/proc/{server}/environ"),
    descriptors=[os.path.realpath(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd")],
    connected=connected,
)
with open("{folder}/spied.json", "w") as file:
    json.dump(found, file)
os.rename("{folder}/spied.json", "{folder}/spied")
while not os.path.exists("{folder}/seen"):
    time.sleep(0.02)
sys.exit(1)
"""


@dataclass(frozen=True)
class Spied:
    """What there is to see for one who has taken over a worker, or its ffmpeg."""

    environments: str
    server: str  # its environment, or the error instead
    descriptors: list[str]
    listener: str  # of the server
    connected: bool


@pytest.fixture(name="spied")
def _spied(
    tmp_path: Path, m4a: Path, with_ffmpeg: StartWith, monkeypatch: pytest.MonkeyPatch
) -> Spied:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        decoder = with_ffmpeg(
            SPY.format(python=sys.executable, port=port, server=os.getpid(), folder=tmp_path)
        )
        job = pool.submit(refusal, decoder, m4a)
        until((tmp_path / "spied").exists)
        (worker,) = fork_server_of(decoder).children()
        descriptors = [fd.resolve() for fd in Path(f"/proc/{worker.pid}/fd").iterdir()]
        environment = worker.environ()
        (tmp_path / "seen").touch()
        job.result()
        found = json.loads((tmp_path / "spied").read_text())
        return Spied(
            f"{found['environ']} {environment}",
            found["server"],
            [*found["descriptors"], *map(str, descriptors)],
            str(Path(f"/proc/self/fd/{listener.fileno()}").resolve()),
            found["connected"],
        )


def test_a_worker_sees_no_secret_and_no_socket_of_the_server(spied: Spied) -> None:
    assert "OPENBLAS_NUM_THREADS" in spied.environments
    assert "hf_secret" not in spied.environments
    assert spied.listener not in spied.descriptors
    sockets = [what for what in spied.descriptors if "socket:" in what]
    assert len(sockets) == 1  # the worker's own, for its verdict
    assert len(spied.descriptors) < 15


def test_a_worker_reaches_no_port_and_no_other_process(spied: Spied) -> None:
    probe = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("this host permits no user namespaces, so workers have none")
    assert spied.connected is False
    assert spied.server == "PermissionError"


class Canary:
    """A port and a pipe that nobody should touch."""

    def __init__(self, folder: Path) -> None:
        self.touched: list[str] = []
        self.pipe = folder / "canary.wav"
        os.mkfifo(self.pipe)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/canary.wav"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._listener.close()

    def assert_untouched(self) -> None:
        time.sleep(0.2)  # a connection is noticed a moment later
        assert self.touched == []

    def _watch(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                self._listener.accept()[0].close()
                self.touched.append("port")
            with contextlib.suppress(OSError):  # nobody has opened it to read
                os.close(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
                self.touched.append("pipe")


@pytest.fixture(name="canary")
def _canary(tmp_path: Path) -> Iterator[Canary]:
    with contextlib.closing(Canary(tmp_path)) as canary:
        yield canary


def playlists(target: str) -> dict[str, bytes]:
    """Files that refer to another one, by the demuxer that follows them."""
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n".encode(),
        "concat": f"ffconcat version 1.0\nfile '{target}'\n".encode(),
        "dash": (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT1S"><Period duration="PT1S"><AdaptationSet '
            'mimeType="audio/mp4"><Representation id="1" bandwidth="1" codecs="mp4a.40.2">'
            f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
        ).encode(),
    }


@pytest.mark.parametrize("demuxer", ["hls", "concat", "dash"])
def test_ffmpeg_opens_nothing_a_playlist_names(
    demuxer: str, tmp_path: Path, canary: Canary
) -> None:
    """Even if it were told to read one, which a worker never does."""
    told = decode_worker.ffmpeg_command(demuxer, LIMITS)
    trusting = [word if word != "fd,pipe" else "fd,pipe,file,http,tcp,crypto,data" for word in told]
    if demuxer == "concat":
        trusting[1:1] = ["-safe", "0"]
    playlist = tmp_path / "playlist"

    def run(command: list[str], target: str) -> int:
        playlist.write_bytes(playlists(target)[demuxer])
        with playlist.open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, timeout=PATIENCE_S)
        return done.returncode

    for target in (canary.url, str(canary.pipe), f"file:{canary.pipe}"):
        assert run(told, target) != 0
    canary.assert_untouched()
    assert run(trusting, canary.url) != 0
    until(lambda: canary.touched)  # so the test can fail


def referring(m4a: bytes, target: str) -> Iterator[tuple[str, bytes]]:
    """M4A whose sound is said to lie in another file."""
    place = [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"]
    head = (0).to_bytes(4, "big") + (1).to_bytes(4, "big")
    alias = bytes(10) + b"\x08canary.w" + bytes(200)
    entries = {
        "url": box(b"url ", bytes(4), target.encode() + b"\0"),
        "urn": box(b"urn ", bytes(4), b"canary\0" + target.encode() + b"\0"),
        "alis": box(
            b"alis", bytes(4), alias, b"\0\x12", len(target).to_bytes(2, "big"), target.encode()
        ),
        "rsrc": box(b"rsrc", bytes(4), alias, target.encode()),
    }
    for name, entry in entries.items():
        yield name, replace_box(m4a, place, box(b"dref", head, entry))


def test_uploads_that_refer_to_other_files(tmp_path: Path, m4a: Path, canary: Canary) -> None:
    decoder = Decoder()
    path = tmp_path / "upload"
    with contextlib.closing(decoder):
        whole = decode_upload(m4a, LIMITS, decoder)
        for target in (canary.url, str(canary.pipe), "canary.wav"):
            for text in playlists(target).values():
                for front in (
                    b"",
                    b"ID3\x03\0\0\0\0\0\0",
                    FTYP,
                    b"RIFF\0\0\0\0WAVE",
                    b"OggS",
                    b"fLaC",
                ):
                    path.write_bytes(front + text)
                    refusal(decoder, path)
            path.write_text("v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n")
            refusal(decoder, path)
            for _, data in referring(m4a.read_bytes(), target):
                path.write_bytes(data)
                with contextlib.suppress(UndecodableAudio):
                    heard = decode_upload(path, LIMITS, decoder)  # its own sound, at most
                    np.testing.assert_array_equal(heard.samples, whole.samples)
    canary.assert_untouched()
