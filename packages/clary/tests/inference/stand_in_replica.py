"""A model server that tells what it was asked: `stand_in_replica.py SOCKET NAME`. The body says how it is to behave."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

NAME = sys.argv[2]
TAKES = 2  # requests that begin with "queue", at once
started = time.monotonic()
queued = working = 0


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            headers = {}
            for line in lines[1:-2]:
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if not await behave(writer, lines[0], headers, body):
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def behave(writer: asyncio.StreamWriter, request: str, headers: dict[str, str], body: bytes) -> bool:
    word = body[:40].decode("latin-1")
    if word == "die":
        os._exit(9)
    if word == "close":
        return False
    if word == "half":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        return False
    if word == "nonsense":
        writer.write(b"this is no HTTP\r\n\r\n")
        return False
    if word == "old":
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end")
        await writer.drain()
        return False
    if word == "large":
        await respond(writer, 200, b"x" * 6_291_457)
        return True
    if word == "once":  # closes a kept connection without a word after this answer
        await respond(writer, 200, b"once")
        return False
    if word.startswith("status "):
        await respond(writer, int(word.split()[1]), b'{"error": "the model says no"}')
        return True
    if word.startswith("own "):
        await respond(writer, 503, b'{"error": "the queue is full"}', f"X-Clary-Error: {word.split()[1]}\r\n")
        return True
    if word == "load first" and started + 0.5 > time.monotonic():
        await respond(writer, 503, b'{"error": "loading"}', "X-Clary-Error: Loading\r\n")
        return True
    if word.startswith("stream"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            writer.write(b"8\r\npiece %d;\r\n" % number)
            await writer.drain()
            await asyncio.sleep(0.02)
            if word == "stream broken" and number == 2:
                return False
        writer.write(b"0\r\n\r\n")
        return True
    if word.startswith("queue "):
        return await queue(writer, float(word.split()[1]))
    if word.startswith("work "):
        return await work(writer, float(word.split()[1]))
    if word.startswith("slow "):
        await asyncio.sleep(float(word.split()[1]))
    told = json.dumps({"name": NAME, "request": request, "headers": headers, "bytes": len(body), "word": word})
    extra = "".join(
        f"X-Amzn-SageMaker-{name}: {value}\r\n"
        for name, value in (("Custom-Attributes", headers.get("x-amzn-sagemaker-custom-attributes")),)
        if value
    )
    if word == "loaded":  # as the gateway before a multi-model container tells it
        extra += "X-Clary-Model-Cache-Hit: 1\r\nX-Clary-Model-Wait-Us: 12\r\n"
    await respond(writer, 200, told.encode(), extra)
    return True


async def queue(writer: asyncio.StreamWriter, seconds: float) -> bool:
    """As a server whose queue is short."""
    global queued
    if queued >= TAKES:
        await respond(writer, 503, b'{"error": "the queue is full"}', "X-Clary-Error: ServiceUnavailable\r\n")
        return True
    queued += 1
    await asyncio.sleep(seconds)
    queued -= 1
    await respond(writer, 200, json.dumps({"name": NAME}).encode())
    return True


async def work(writer: asyncio.StreamWriter, seconds: float) -> bool:
    """As a server that says how much it can do at once, and tells how much it had to do."""
    global working
    working += 1
    most = working
    await asyncio.sleep(seconds)
    working -= 1
    told = json.dumps({"name": NAME, "at_once": most}).encode()
    await respond(writer, 200, told, f"X-Clary-Concurrency: {TAKES}/{2 * TAKES}\r\n")
    return True


async def respond(writer: asyncio.StreamWriter, status: int, body: bytes, extra: str = "") -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def main() -> None:
    server = await asyncio.start_unix_server(answer, sys.argv[1], limit=1 << 20)
    print("listening", flush=True)
    await server.serve_forever()


asyncio.run(main())
