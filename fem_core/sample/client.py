"""The flow's side of the engine host: start it, give it jobs, hear from it, end it.

Contract: the host is started when the first job needs it and again after it died; jobs are awaited side by side; the
weights are changed, and proved by the host, before a job that needs others. Closing ends the process, by force after
a few seconds. Loads neither torch nor vllm.
"""

import asyncio
import json
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fem_core.errors import FemError
from fem_core.sample.job import DrawJob, HostSettings
from fem_core.sample.spawn import HostProcess, spawn

logger = logging.getLogger(__name__)

Listener = Callable[[dict[str, Any]], None]

_LINE_LIMIT = 64 * 1024 * 1024
_STOP_SECONDS = 5.0


class EngineDied(RuntimeError):
    """The host process ended while it was needed; the step may be tried again."""


class EngineHost:
    """One engine host for a run. Use as an async context manager."""

    def __init__(self, settings: HostSettings, log: Path, ahead: HostProcess | None = None) -> None:
        """
        Args:
            settings: ``model_dir`` is replaced by the folder of the weights that the first job needs.
            log: file that takes the host's output.
            ahead: a process that was started before, for the first engine; ended in any case.
        """
        self._settings = settings
        self._log = log
        self._ahead = ahead
        self._weights = ""
        self.facts: dict[str, Any] = {}
        """What the running engine turned out to be: its dtype, and how it came by its weights."""
        self._process: HostProcess | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._listeners: dict[str, Listener] = {}
        self._lock = asyncio.Lock()
        self._jobs = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._orders = 0

    async def __aenter__(self) -> "EngineHost":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def pid(self) -> int | None:
        """The host's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.alive else None

    async def draw(self, job: DrawJob, weights: tuple[str, Path], listen: Listener) -> None:
        """Do a job with the given weights (digest, folder).

        Args:
            listen: hears ``began``, ``part`` and ``progress`` events as mappings.

        Raises:
            EngineDied: the process ended; parts that it wrote are committed.
            FemError: the host refused the job for a reason that the user can mend.
        """
        async with self._lock:
            await self._use(weights)
            self._jobs += 1
            self._idle.clear()
        self._listeners[job.id] = listen
        try:
            await self._order("draw", job.id, job=job.model_dump(mode="json"))
        finally:
            self._listeners.pop(job.id, None)
            self._jobs -= 1
            if not self._jobs:
                self._idle.set()

    async def sleep(self) -> None:
        """Free the accelerator's memory while the trainer needs it. The next ``draw`` brings other weights."""
        async with self._lock:
            await self._idle.wait()
            if self.pid is not None:
                await self._order("sleep", self._next_id("sleep"))
                self._weights = ""

    async def _use(self, weights: tuple[str, Path]) -> None:
        digest, folder = weights
        if self.pid is None:
            # A fresh engine on the wanted weights; on the base model's folder if that is the one.
            try:
                await self._start(self._settings.model_copy(update={"model_dir": str(folder)}))
            except BaseException:
                await self.close()  # a host without an engine is of no use to the next try
                raise
            self._weights = digest
        elif digest != self._weights:
            await self._idle.wait()
            self._weights = ""
            done = await self._order("swap", self._next_id("swap"), folder=str(folder))
            self._weights = digest
            self.facts |= done["facts"]

    def _next_id(self, name: str) -> str:
        self._orders += 1
        return f"{name}-order-{self._orders}"

    async def _start(self, settings: HostSettings) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is None or not ahead.alive:  # a second one will say in its own words what the first one died of
            ahead = spawn(self._log)
        self._process = ahead
        reader, self._writer = await asyncio.open_connection(sock=self._process.channel, limit=_LINE_LIMIT)
        self._reader_task = asyncio.create_task(self._hear(reader))
        done = await self._order("start", self._next_id("start"), settings=settings.model_dump(mode="json"))
        self.facts = done["facts"]

    async def _order(self, do: str, order_id: str, **values: Any) -> dict[str, Any]:
        if self._writer is None:
            raise EngineDied("The engine host is not running.")
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[order_id] = future
        try:
            self._writer.write(json.dumps({"do": do, "id": order_id, **values}).encode() + b"\n")
            await self._writer.drain()
            return await future
        except ConnectionError as error:
            raise EngineDied(self._obituary()) from error
        finally:
            self._waiting.pop(order_id, None)

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        """Pass events on until the host ends; then every order that still waits fails."""
        process = self._process
        try:
            while line := await reader.readline():
                self._dispatch(json.loads(line))
        except ConnectionError:
            pass  # the same as the end of the stream: the process is gone, and says so below
        except Exception:
            logger.exception("The engine host said what nobody understands; it is ended.")
            if process is not None:
                process.kill()
            raise
        finally:
            if process is not None:
                await asyncio.to_thread(process.wait)
            self._fail_waiting()

    def _fail_waiting(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(EngineDied(self._obituary()))

    def _dispatch(self, event: dict[str, Any]) -> None:
        job_id = event["id"]
        future = self._waiting.get(job_id)
        if event["event"] == "done" and future and not future.done():
            future.set_result(event)
        elif event["event"] == "failed" and future and not future.done():
            kind = FemError if event["mendable"] else EngineDied
            future.set_exception(
                kind(event["message"] if event["mendable"] else f"{event['type']}: {event['message']}")
            )
        elif job_id in self._listeners:
            try:
                self._listeners[job_id](event)
            except Exception:
                logger.warning("A listener of %s failed and is dropped.", job_id, exc_info=True)
                del self._listeners[job_id]

    def _obituary(self) -> str:
        code = self._process.returncode if self._process else None
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        words = _tail(self._log, self._process.log_start if self._process else 0)
        return f"The engine host ended with {how}{hint}. Its last words are in {self._log}: {words}"

    async def close(self) -> None:
        """End the host. Draws in flight are lost, committed parts are not."""
        process, self._process = self._process, None
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.end()
        if self._writer is not None:
            self._writer.close()  # the host ends when its socket does
            self._writer = None
        if process is not None:
            try:
                await asyncio.to_thread(process.wait, _STOP_SECONDS)
            except (subprocess.TimeoutExpired, asyncio.CancelledError):
                process.kill()
                await asyncio.to_thread(process.wait)
        if self._reader_task is not None:
            self._reader_task.cancel()
            self._reader_task = None
        self._fail_waiting()
        self._weights = ""


def _tail(log: Path, start: int, lines: int = 5) -> str:
    """The last lines that one host wrote to a log, from byte ``start``, without control characters."""
    with log.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(start, stream.tell() - 8192))
        text = stream.read().decode(errors="replace")
    last = [line for line in text.splitlines() if line.strip()][-lines:]
    return " | ".join("".join(c for c in line if c.isprintable()) for line in last)
