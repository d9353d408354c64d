"""What a process that decodes strangers' files may not do.

:func:`isolate` is for the fork server, once, and holds for all that it forks;
:func:`limit_resources` is for each worker. What the kernel permits is taken, for hosts differ;
what does not depend on the host is the resource limits, the death of a worker with its fork
server, and that no privilege is ever gained.

Where user namespaces are permitted, the fork server and its workers have one of their own, and a
network namespace without an interface in it: whatever a broken decoder tries, it reaches
neither a host nor a local port, and it can't read this server's environment in /proc or trace
it. Elsewhere what keeps decoders off the network is what they are told (``decode_worker``).

Invariant: nothing here raises on a host that permits less.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import resource
import signal
from pathlib import Path

from magenta_bento.audio.limits import DecodeLimits

_OPEN_FILES = 64
_FILE_SLACK_BYTES = 1 << 20
_CPUS = 2  # ffmpeg starts a thread, and reserves memory, for every one it sees

# linux/prctl.h and linux/sched.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def isolate() -> None:
    """Cuts this process, which has one thread, and all it will fork off from what is outside."""
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # An ffmpeg whose worker died comes to the fork server, which waits for it: no zombies.
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        _libc.unshare(_CLONE_NEWNET)  # what root may do in some containers


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent, a process id, ends; survives an exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), signal.SIGKILL)


def limit_resources(limits: DecodeLimits, input_bytes: int) -> None:
    """Sets a worker's resource limits, which its ffmpeg inherits."""
    bounds = {
        resource.RLIMIT_CPU: limits.cpu_s,
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_FSIZE: max(limits.max_decoded_bytes, input_bytes) + _FILE_SLACK_BYTES,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for what, bound in bounds.items():
        most = resource.getrlimit(what)[1]
        bound = bound if most == resource.RLIM_INFINITY else min(bound, most)
        resource.setrlimit(what, (bound, bound))
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, random.sample(cpus, min(_CPUS, len(cpus))))
    with contextlib.suppress(OSError):  # short of memory, the host should end this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
