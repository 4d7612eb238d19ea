"""A way to JAX's service that stays open on this side when the process that runs it is gone.

JAX's client aborts its process, with its own stack trace, as soon as the connection breaks; behind a relay it notices
only that nobody answers, after its heartbeat's time, when `processes` has long said what happened.
"""

import asyncio
import contextlib

_RETRY = 0.3  # seconds between two attempts to connect


class Relay:
    """What this process's JAX connects to in place of the service; lives in the loop that calls `listen`."""

    def __init__(self):
        self._kept: list[object] = []  # asyncio itself keeps neither servers nor tasks

    async def listen(self, host: str, port: int) -> int:
        """Returns the port of this machine behind which the service at an address is reached."""

        async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            from_service, to_service = await dial(host, port)
            self._kept.append(asyncio.get_running_loop().create_task(_pump(from_service, writer)))
            await _pump(reader, to_service)
            to_service.close()

        server = await asyncio.start_server(join, "localhost", 0)
        self._kept.append(server)
        return server.sockets[0].getsockname()[1]


async def dial(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects to an address as soon as somebody listens there."""
    while True:
        try:
            return await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(_RETRY)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hands on what comes until no more comes."""
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
