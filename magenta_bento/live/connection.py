"""A WebSocket whose writes are bounded in time.

Two tasks write to it, one answers and one audio; a reader that takes nothing stalls both.

Invariant: no write waits longer than ``STALL_S``; then the connection is closed and says why.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from magenta_bento.errors import SlowReader

STALL_S = 10.0
IDLE_S = 600.0  # of a connection that neither plays nor says anything
MAX_REASON_BYTES = 123  # RFC 6455, 5.5: a control frame holds 125 bytes, 2 of them the code


class Connection:
    """One WebSocket, written to by several tasks in turn and never for longer than ``STALL_S``.

    Args:
      socket: Accepted already.
    """

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._writing = asyncio.Lock()

    async def send_text(self, text: str) -> None:
        """Sends a text message.

        Raises:
          SlowReader: It could not leave in time.
          WebSocketDisconnect: The client is gone.
        """
        await self._send({"type": "websocket.send", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        """Sends a binary message; raises as :meth:`send_text`."""
        await self._send({"type": "websocket.send", "bytes": data})

    async def receive(self) -> str | bytes:
        """The next message.

        Raises:
          WebSocketDisconnect: The client is gone.
        """
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text: str | None = message.get("text")
        return text if text is not None else message["bytes"]

    async def close(self, code: int, reason: str = "") -> None:
        """Closes, if it is open still."""
        if self._socket.application_state is not WebSocketState.CONNECTED:
            return
        short = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        with suppress(RuntimeError, TimeoutError, WebSocketDisconnect):
            await asyncio.wait_for(self._socket.close(code, short), STALL_S)

    async def _send(self, message: dict[str, str | bytes]) -> None:
        async with self._writing:
            try:
                await asyncio.wait_for(self._socket.send(message), STALL_S)
            except TimeoutError:
                raise SlowReader(f"nothing was read for {STALL_S:g} seconds") from None
            except RuntimeError as error:  # Starlette's word for a socket that is closed
                raise WebSocketDisconnect(1006) from error
