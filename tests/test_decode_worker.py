"""The process that decodes an upload: what it survives, what it ends, and what it sees."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
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
from audio_files import by_ffmpeg, by_libsndfile, tone
from decoding import all_gone, assert_idle, decode_upload, is_worker, workers
from hostile_audio import FTYP, box, replace_box
from imageio_ffmpeg import get_ffmpeg_exe

from magenta_bento.audio import decode, decode_worker
from magenta_bento.audio.decode import DecodeLimits, Decoder
from magenta_bento.errors import InvalidInput, NotReady, Overloaded, UndecodableAudio

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


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def refusal(decoder: Decoder, path: Path, limits: DecodeLimits = LIMITS) -> str:
    with pytest.raises(UndecodableAudio) as caught:
        decode_upload(path, limits, decoder)
    assert_idle()
    return caught.value.message


def test_many_uploads_at_once(wav: Path) -> None:
    with contextlib.closing(Decoder()) as decoder:
        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(decode_upload, wav, LIMITS, decoder) for _ in range(64)]
            assert {job.result().samples.shape for job in jobs} == {(24_000, 2)}
        assert_idle()


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
        messages = list(pool.map(lambda _: refusal_of(decoder, m4a, limits), range(2)))
    assert ["no audio that decodes" in message for message in messages] == [True, True]


def refusal_of(decoder: Decoder, path: Path, limits: DecodeLimits) -> str:
    with pytest.raises(UndecodableAudio) as caught:
        decode_upload(path, limits, decoder)
    return caught.value.message


def test_a_hung_ffmpeg_is_ended(tmp_path: Path, m4a: Path, with_ffmpeg: StartWith) -> None:
    decoder = with_ffmpeg(f"#!/bin/sh\necho $$ > {tmp_path}/started\nexec sleep 9999\n")
    assert "longer than 2 s" in refusal(decoder, m4a, DecodeLimits(60, timeout_s=2.0))
    assert not psutil.pid_exists(int((tmp_path / "started").read_text()))


def test_an_ffmpeg_that_never_ends_is_ended(m4a: Path, with_ffmpeg: StartWith) -> None:
    decoder = with_ffmpeg("#!/bin/sh\nwhile :; do :; done\n")
    limits = DecodeLimits(60, cpu_s=1, timeout_s=PATIENCE_S)
    assert "more than 1 s of processor time" in refusal(decoder, m4a, limits)


def au(rate_hz: int, channels: int, data: bytes = b"", encoding: int = 6) -> bytes:
    return struct.pack(">4s5I", b".snd", 24, 2**32 - 1, encoding, rate_hz, channels) + data


def writing(output: bytes, then: str = "") -> str:
    """An ffmpeg that writes, and does nothing else."""
    return f"#!{sys.executable}\nimport os\nos.write(1, {output!r})\n{then}\n"


def test_an_ffmpeg_that_never_stops_writing_is_ended(m4a: Path, with_ffmpeg: StartWith) -> None:
    limits = DecodeLimits(2, timeout_s=PATIENCE_S)
    decoder = with_ffmpeg(writing(au(48_000, 2), "while True: os.write(1, bytes(1 << 24))"))
    with pytest.raises(InvalidInput, match="at most 2 s"):
        decode_upload(m4a, limits, decoder)
    assert_idle()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGSEGV, "the decoder broke"),
        (signal.SIGABRT, "the decoder broke"),
        (signal.SIGKILL, "too much memory"),
    ],
)
def test_an_ffmpeg_that_crashes(
    number: int, message: str, m4a: Path, with_ffmpeg: StartWith
) -> None:
    decoder = with_ffmpeg(f"#!/bin/sh\nkill -{number} $$; exec sleep 30\n")
    assert message in refusal(decoder, m4a)


def test_an_ffmpeg_that_kills_the_process_that_waits_for_it(
    tmp_path: Path, m4a: Path, with_ffmpeg: StartWith
) -> None:
    """It ends too, and the file is not blamed."""
    decoder = with_ffmpeg(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nkill -KILL $PPID; exec sleep 30\n")
    with pytest.raises(Overloaded):
        decode_upload(m4a, LIMITS, decoder)
    until(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())))


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


def test_the_limits_of_ffmpeg(tmp_path: Path, wav: Path, with_ffmpeg: StartWith) -> None:
    decoder = with_ffmpeg(
        f"#!{sys.executable}\nimport json, os, resource\n"
        "names = ('CPU', 'AS', 'FSIZE', 'NOFILE', 'CORE')\n"
        "found = [resource.getrlimit(getattr(resource, f'RLIMIT_{n}'))[0] for n in names]\n"
        "status = open('/proc/self/status').read()\n"
        f"with open('{tmp_path}/found', 'w') as file:\n"
        "    leads = os.getsid(0) == os.getpid()\n"
        "    json.dump([found, leads, 'NoNewPrivs:\\t1' in status], file)\n"
    )
    limits = DecodeLimits(60, cpu_s=3)
    refusal(decoder, wav, limits)
    found, leads_session, no_new_privileges = json.loads((tmp_path / "found").read_text())
    assert found[:2] == [3, limits.memory_bytes]
    assert limits.max_decoded_bytes < found[2] < 2 * limits.max_decoded_bytes
    assert found[3:] == [64, 0]
    assert leads_session
    assert no_new_privileges


def test_memory_is_bounded(tmp_path: Path, wav: Path, with_ffmpeg: StartWith) -> None:
    decoder = with_ffmpeg(
        f"#!{sys.executable}\ntry: bytes({LIMITS.memory_bytes})\n"
        f"except MemoryError: open('{tmp_path}/refused', 'w')\n"
    )
    refusal(decoder, wav)
    assert (tmp_path / "refused").exists()


def test_files_are_bounded(wav: Path, with_ffmpeg: StartWith) -> None:
    """Beyond the bound nothing can be written; what is there is refused."""
    endless = "while True: os.write(1, bytes(1 << 24))"
    decoder = with_ffmpeg(writing(au(384_000, 8), endless))
    with pytest.raises(InvalidInput, match="256 MiB"):
        decode_upload(wav, DecodeLimits(60, timeout_s=PATIENCE_S), decoder)


def test_a_full_disk_is_not_the_files_fault(wav: Path, with_ffmpeg: StartWith) -> None:
    decoder = with_ffmpeg(writing(au(48_000, 2, bytes(80)), "os._exit(256 - 28)"))
    with pytest.raises(Overloaded, match="disk"):
        decode_upload(wav, LIMITS, decoder)


@pytest.mark.parametrize(
    "output",
    [
        b"words",
        bytes(100),
        au(48_000, 2, bytes(80), encoding=3),
        au(48_000, 0, bytes(80)),
        b"RIFF" + au(48_000, 2, bytes(80))[4:],
        au(48_000, 2),
        au(48_000, 2, bytes(7)),
        b".snd" + b"\xff" * 20 + bytes(80),
    ],
)
def test_an_ffmpeg_that_lies(output: bytes, wav: Path, with_ffmpeg: StartWith) -> None:
    refusal(with_ffmpeg(writing(output)), wav)


@pytest.mark.parametrize(("rate_hz", "channels"), [(1, 2), (2**32 - 1, 1), (48_000, 2**32 - 1)])
def test_an_ffmpeg_that_lies_about_its_samples(
    rate_hz: int, channels: int, wav: Path, with_ffmpeg: StartWith
) -> None:
    with pytest.raises(InvalidInput, match="must"):
        decode_upload(wav, LIMITS, with_ffmpeg(writing(au(rate_hz, channels, bytes(80)))))


def test_what_decoded_before_an_error_is_taken(wav: Path, with_ffmpeg: StartWith) -> None:
    decoder = with_ffmpeg(writing(au(48_000, 2, bytes(80)), "os._exit(1)"))
    assert decode_upload(wav, LIMITS, decoder).samples.shape == (10, 2)


def test_no_process_to_decode_in(monkeypatch: pytest.MonkeyPatch, wav: Path) -> None:
    monkeypatch.setattr(decode, "_COMMAND", ("/nowhere",))
    with contextlib.closing(Decoder()) as decoder, pytest.raises(Overloaded) as caught:
        decode_upload(wav, LIMITS, decoder)
    assert caught.value.headers["Retry-After"] == "1"


def test_closing_ends_everything(tmp_path: Path, m4a: Path, with_ffmpeg: StartWith) -> None:
    decoder = with_ffmpeg(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 30\n")
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(decode_upload, m4a, LIMITS, decoder)
        until((tmp_path / "started").exists)
        with all_gone():
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
    assert len(started) >= 2  # the worker and its ffmpeg
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
        worker = next(process for process in workers() if is_worker(process))
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
    assert "LC_ALL" in spied.environments
    assert "hf_secret" not in spied.environments
    assert spied.listener not in spied.descriptors
    sockets = [what for what in spied.descriptors if "socket:" in what]
    assert sockets == []
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
    command = decode_worker.ffmpeg_command(get_ffmpeg_exe(), demuxer, 60, 1 << 20)
    trusts = {"fd,pipe": "fd,pipe,file,http,tcp,crypto,data"}
    trusting = [trusts.get(word, word) for word in command]
    trusting[trusting.index("-format_whitelist") + 1] = f"{demuxer},wav,mpegts,mov"
    if demuxer == "concat":
        trusting[1:1] = ["-safe", "0"]
    playlist = tmp_path / "playlist"

    def run(command: list[str], target: str) -> int:
        playlist.write_bytes(playlists(target)[demuxer])
        with playlist.open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, timeout=PATIENCE_S)
        return done.returncode

    for target in (canary.url, str(canary.pipe), f"file:{canary.pipe}"):
        assert run(command, target) != 0
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
