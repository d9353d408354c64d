"""The process that forks a worker for each upload, and never reads an upload itself.

    python -m magenta_bento.audio.fork_server      # the orders come through its standard input

To start Python and import numpy costs a few tenths of a second of processor; to fork a process
that has done both costs a few milliseconds. This process has one thread, so that a fork is
sound, and no environment and no file of the server's. (multiprocessing's fork server would do,
but for what it hands on: all of the server's environment.)

An order is one message: the limits as JSON, and four descriptors (see ``decode_worker``). The
answer is the worker's one message through the verdict socket, then ours with its exit status,
then the end of that socket. Who closes or shuts down the other end of that socket has the
worker killed, together with its ffmpeg. The end of standard input is the server's end, and the
end of everything here.

Invariant: every worker is waited for, and none outlives this process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

from magenta_bento.audio import decode_worker, sandbox

ORDER_BYTES = 4_096
_KEPT_FREE = decode_worker.DESCRIPTORS  # descriptors below have a meaning to a worker
_OPEN_FILES = 1_024  # more than a fork server has: five, and one for each worker


class ForkServer:
    """Forks a worker for each order, tells how each worker ended, and leaves none behind.

    Args:
      orders: A socket that keeps the bounds of messages; each message is one order.
    """

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._verdicts: dict[int, int] = {}  # a worker's process id -> our end of its socket
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serves until the other end of ``orders`` is closed."""
        woken, waker = socket.socketpair()
        for end in (woken, waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # else it is ignored, and wakes nobody
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._orders, selectors.EVENT_READ)
        self._selector.register(woken, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is self._orders:
                        if not self._take():
                            return
                    elif key.fileobj is woken:
                        woken.recv(ORDER_BYTES)
                        self._reap()
                    elif key.data in self._verdicts:  # nobody waits for the verdict any more
                        self._selector.unregister(key.fileobj)
                        _kill(key.data)
        finally:
            for worker in self._verdicts:
                _kill(worker)

    def _take(self) -> bool:
        """Takes one order; False when there will be no more."""
        order, descriptors, _, _ = socket.recv_fds(
            self._orders, ORDER_BYTES, decode_worker.DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if not order:
            return False
        verdict = os.dup(descriptors[decode_worker.VERDICT])
        fork_server = os.getpid()
        try:
            worker = os.fork()
        except OSError as error:
            print(f"the fork server can't fork: {error}", file=sys.stderr, flush=True)
            os.close(verdict)  # an end without an exit status
        else:
            if worker == 0:
                _work(order, descriptors, fork_server)
            self._verdicts[worker] = verdict
            self._selector.register(verdict, selectors.EVENT_READ, worker)
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _reap(self) -> None:
        """Waits for all that have ended, and tells how."""
        while (ended := _ended()) is not None:
            if ended.si_pid in self._verdicts:
                _kill(ended.si_pid)  # what it left; its id is its own until it is waited for
            _, status = os.waitpid(ended.si_pid, 0)
            verdict = self._verdicts.pop(ended.si_pid, None)
            if verdict is None:
                continue  # an ffmpeg that outlived its worker
            with contextlib.suppress(KeyError):  # hung up already
                self._selector.unregister(verdict)
            with contextlib.suppress(OSError):
                os.write(verdict, json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode())
            os.close(verdict)
        # What has left its session to outlive its worker has come to us, as orphans do.
        for stray in _children() - self._verdicts.keys():
            with contextlib.suppress(ProcessLookupError):
                os.kill(stray, signal.SIGKILL)


def _children() -> set[int]:
    """This process's, if the kernel tells."""
    try:
        listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        return set()
    return {int(child) for child in listed.split()}


def _ended() -> os.waitid_result | None:
    """A process that has ended and is yet to be waited for."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None


def _kill(worker: int) -> None:
    """Kills a worker and its whole session."""
    try:
        os.killpg(worker, signal.SIGKILL)
    except ProcessLookupError:  # forked a moment ago: it has no session yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def _work(order: bytes, descriptors: list[int], fork_server: int) -> NoReturn:
    """What the forked process does; it never returns."""
    exit_status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        # Its own descriptors and no others: those of the fork server lead to other uploads.
        for place, descriptor in enumerate(
            [fcntl.fcntl(given, fcntl.F_DUPFD, _KEPT_FREE) for given in descriptors]
        ):
            os.dup2(descriptor, place)
        os.closerange(_KEPT_FREE, _OPEN_FILES)
        sandbox.die_with_parent(fork_server)
        decode_worker.main(order)
        exit_status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(exit_status)


def main() -> None:
    """Imports what workers need, gives up what they don't, and serves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydub warns when ffmpeg is not on PATH
        import pydub  # noqa: F401
    decode_worker.ffmpeg_exe()
    sandbox.isolate()
    ForkServer(socket.socket(fileno=sys.stdin.fileno())).run()


if __name__ == "__main__":
    main()
