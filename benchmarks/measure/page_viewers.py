"""Opens the page of the web node as many times as asked for, without a browser; some of them read nothing."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp


@contextmanager
def watching(address: str, reading: int, stalled: int) -> Iterator[None]:
    """So many pages are open during the block.

    Args:
        address: of the page, without a token.
        reading: how many take every picture and acknowledge it, as the page does.
        stalled: how many connect, and then read nothing.
    """
    loop, up = asyncio.new_event_loop(), threading.Event()
    over = asyncio.Event()

    async def watch() -> None:
        async with aiohttp.ClientSession() as session:
            tasks = [asyncio.ensure_future(_read(session, address)) for _ in range(reading)]
            sockets = [await _connect(session, address) for _ in range(stalled)]
            up.set()
            await over.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for socket in sockets:
                await socket.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(watch()), name="viewers", daemon=True)
    thread.start()
    up.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


async def _connect(session: aiohttp.ClientSession, address: str) -> aiohttp.ClientWebSocketResponse:
    base = address.rstrip("/")
    return await session.ws_connect(f"{base}/ws", headers={"Origin": base}, max_msg_size=0)


async def _read(session: aiohttp.ClientSession, address: str) -> None:
    async with await _connect(session, address) as socket:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                number = int.from_bytes(message.data[1:5], "big")
                await socket.send_str(json.dumps({"kind": "shown", "number": number}))
