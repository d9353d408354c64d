"""The process that decodes one upload by ffmpeg, and ends all that this has started.

    python -S -P -m magenta_bento.audio.decode_worker PARENT CPU_S MEMORY_BYTES OUTPUT_BYTES \
        SECONDS FFMPEG < upload > samples 2> log

1. Cut this process off from the network and from other processes (:mod:`.sandbox`).
2. Fork. The child limits its resources, recognises the upload by its bytes, and becomes ffmpeg.
3. Wait for it, or for SIGTERM; kill whatever is left of it; exit with its status.

ffmpeg is told the demuxer, so it never guesses a playlist or a script, and has no protocol but
its open descriptors: it can open no second file and no socket, whatever a file refers to. It
writes AU, whose header is six numbers: nothing that a stranger may have made is parsed by C
code in the server.

Only the standard library is imported, and little of it, for this starts with each upload.

Invariant: no process that this one has started, directly or not, outlives it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

from magenta_bento.audio import sandbox
from magenta_bento.audio.container_chunks import has_too_many_chunks
from magenta_bento.audio.sniff import sniff

_FILE_SLACK_BYTES = 1 << 20  # ffmpeg stops at the bound by itself, but for a packet or so

# Exit statuses of this process that ffmpeg does not use. A signal's number is added to the last.
UNRECOGNISED, TOO_MANY_CHUNKS, NO_PROCESS, BY_SIGNAL = 100, 101, 102, 128

_WAKING = {signal.SIGCHLD, signal.SIGTERM}


def ffmpeg_command(ffmpeg: str, demuxer: str, seconds: float, output_bytes: int) -> list[str]:
    """ffmpeg from its standard input to AU, big-endian float32, on its standard output."""
    return [
        *(ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-protocol_whitelist", "fd,pipe"),
        *("-format_whitelist", demuxer, "-threads", "1", "-filter_threads", "1"),
        *("-max_error_rate", "1", "-f", demuxer, "-i", "fd:"),
        *("-map", "0:a:0", "-map_metadata", "-1", "-t", f"{seconds:.3f}", "-fs", str(output_bytes)),
        *("-c:a", "pcm_f32be", "-flush_packets", "0", "-f", "au", "pipe:1"),
    ]


def main(arguments: list[str]) -> int:
    """Decodes the upload; returns the exit status for this process."""
    parent, cpu_s, memory_bytes, output_bytes = map(int, arguments[:4])
    seconds, ffmpeg = float(arguments[4]), arguments[5]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a child of a parent that ignores it is lost
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAKING)  # from here on SIGTERM ends all
    sandbox.isolate()
    sandbox.die_with_parent(parent)
    supervisor = os.getpid()
    try:
        child = os.fork()
    except OSError:
        return NO_PROCESS
    if child == 0:
        os.setsid()
        sandbox.die_with_parent(supervisor)
        sandbox.limit_resources(cpu_s, memory_bytes, output_bytes + _FILE_SLACK_BYTES)
        _become_ffmpeg(ffmpeg, seconds, output_bytes)
    try:
        return _exit_status(child)
    finally:
        _kill_descendants(child)


def _become_ffmpeg(ffmpeg: str, seconds: float, output_bytes: int) -> NoReturn:
    """What the child does; it never returns."""
    try:
        with open(0, "rb", closefd=False) as upload:
            kind = sniff(upload)
            if kind is None:
                os._exit(UNRECOGNISED)
            if has_too_many_chunks(upload, kind):
                os._exit(TOO_MANY_CHUNKS)
        os.lseek(0, 0, os.SEEK_SET)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAKING)
        command = ffmpeg_command(ffmpeg, kind.value, seconds, output_bytes)
        os.execv(ffmpeg, command)  # noqa: S606
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
    finally:  # an exec does not come here
        os._exit(NO_PROCESS)


def _exit_status(child: int) -> int:
    """Of the child when it ends, or of this process when it is told to end first."""
    while signal.sigwait(_WAKING) != signal.SIGTERM:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else BY_SIGNAL - code
    return BY_SIGNAL + signal.SIGTERM


def _kill_descendants(child: int) -> None:
    """Kills the child's session, and what has left it: orphans become this process's children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    while children := _children():
        for process in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in children:
            os.waitpid(process, 0)


def _children() -> list[int]:
    """This process's, zombies too; none if the kernel does not tell."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listing:  # noqa: PTH123
            return [int(process) for process in listing.read().split()]
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
