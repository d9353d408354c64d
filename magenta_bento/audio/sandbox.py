"""What a process that decodes strangers' files may not do.

What the kernel permits is taken, for hosts differ. What does not depend on the host is the
resource limits, the death with the parent, and that no privilege is ever gained.

Where user namespaces are permitted, the process gets one of its own, and a network namespace
without an interface in it: whatever a broken decoder tries, it reaches neither a host nor a
local port, and it can't read the server's environment in /proc or trace it. Elsewhere what
keeps decoders off the network is what they are told (``decode_worker``).

Invariant: nothing here raises on a host that permits less.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal

_OPEN_FILES = 64
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
    # What a decoder starts and leaves comes to this process, which ends it.
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        _libc.unshare(_CLONE_NEWNET)  # what root may do in some containers


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent, a process id, ends; survives an exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), signal.SIGKILL)


def limit_resources(cpu_s: int, memory_bytes: int, file_bytes: int) -> None:
    """Bounds this process, and what it becomes by an exec.

    Args:
      cpu_s: Processor time, seconds; at its end the kernel kills the process.
      memory_bytes: Address space.
      file_bytes: The longest file that it may write.
    """
    bounds = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for limit, bound in bounds.items():
        hard_limit = resource.getrlimit(limit)[1]
        bound = bound if hard_limit == resource.RLIM_INFINITY else min(bound, hard_limit)
        resource.setrlimit(limit, (bound, bound))
    # Neighbouring process ids are spread over the processors.
    cpus, first = sorted(os.sched_getaffinity(0)), os.getpid()
    os.sched_setaffinity(0, {cpus[(first + n) % len(cpus)] for n in range(_CPUS)})
    # Short of memory, the host should end this process first.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123
        score.write("1000")
