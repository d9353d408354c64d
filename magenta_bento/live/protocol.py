"""A live connection, whatever protocol it speaks.

Two tasks serve it: this one reads messages and answers each, another sends audio. A
protocol says how a message is answered and how an error is told.

Invariant: when a connection ends, however it ends, its stream ends.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from contextlib import suppress

from starlette.websockets import WebSocketDisconnect

from magenta_bento.errors import IdleSession, ServiceError
from magenta_bento.live.connection import IDLE_S, Connection
from magenta_bento.live.session import LiveSession, State


class LiveProtocol(ABC):
    """Base of a live protocol: the two tasks that serve one connection, and how they end.

    Args:
      connection: Accepted already.
      session: Makes its music.
    """

    def __init__(self, connection: Connection, session: LiveSession) -> None:
        self.connection = connection
        self.session = session
        self._playing: asyncio.Task[None] | None = None

    @abstractmethod
    async def handle_message(self, raw: str | bytes) -> None:
        """Does what a message asks for; a ServiceError ends the connection."""

    @abstractmethod
    async def send_error(self, error: ServiceError) -> None:
        """Says why the connection ends, where the protocol has a message for it."""

    async def run(self) -> None:
        """Serves until either side leaves."""
        try:
            await self._read()
        except WebSocketDisconnect:
            pass
        except ServiceError as error:
            await self.stop()  # first: telling a slow reader takes a while
            with suppress(ServiceError, WebSocketDisconnect):
                await self.send_error(error)
            await self.connection.close(error.close_code, error.message)
        finally:
            await self.stop()

    def play(self, sending: Coroutine[None, None, None]) -> None:
        """Sends audio beside reading messages."""
        self._playing = asyncio.create_task(sending)

    async def stop(self) -> None:
        """Ends the music and keeps the connection."""
        await self.session.stop()
        playing, self._playing = self._playing, None
        if playing is not None:
            playing.cancel()
            with suppress(asyncio.CancelledError, ServiceError, WebSocketDisconnect):
                await playing

    async def _read(self) -> None:
        while True:
            reading = asyncio.ensure_future(self.connection.receive())
            tasks: set[asyncio.Future[None] | asyncio.Future[str | bytes]] = {reading}
            if self._playing is not None:
                tasks.add(self._playing)
            patience_s = None if self.session.state is State.PLAYING else IDLE_S
            try:
                done, _ = await asyncio.wait(
                    tasks, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                if not reading.done():
                    reading.cancel()
            if not done:
                raise IdleSession(f"nothing was played or asked for {IDLE_S:g} seconds")
            # First what was read: a client that left shows in both tasks, and is no error.
            if reading in done:
                await self.handle_message(reading.result())
            if self._playing is not None and self._playing.done():
                self._playing.result()  # raises what ended the music
                self._playing = None
