"""The engine host: one child process of ours that holds the engine, its draw loops and their part files.

Contract: imports what an engine needs at once, then speaks JSON lines over an inherited socket with ``client.py``. Jobs
on the same weights are batched together; weights change only when no job runs, and are proved before the next draw. The
host ends when the socket does, so it never outlives its flow. On two cores this costs a quarter less than vLLM's own
front-end/core split, and a crash here is one failed task.
"""

import contextlib
import json
import queue
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pyarrow as pa

from fem_core.digest import digest
from fem_core.errors import FemError
from fem_core.evaluate.bound import direct_text
from fem_core.filter.verdict import Judgement, judge
from fem_core.problems.answers import has_answer_line
from fem_core.problems.problem import Problem, from_table
from fem_core.problems.verifier import Verifier
from fem_core.prompts import ChatTokens, PromptKind, messages
from fem_core.sample.draw import DrawLoop, DrawSettings
from fem_core.sample.job import DrawJob, HostSettings
from fem_core.sample.look import Looker
from fem_core.sample.probe import ProbeLooker
from fem_core.sample.proof import read_probe
from fem_core.sample.spawn import leave
from fem_core.sample.vllm_engine import VllmEngine, warm_up
from fem_core.store.layout import part_name
from fem_core.store.patience import WORKING
from fem_core.store.store import Store

PROGRESS_SECONDS = 1.0
"""How often a running job reports."""


class Host:
    """The child's state: the engine, and the loops that feed it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self._loops: dict[str, DrawLoop] = {}
        self._reported: dict[str, float] = {}
        self._cold: set[str] = set()
        """Jobs whose first prompt is the first of its kind with these weights."""
        self._prompts: set[str] = set()
        """Kinds of prompts, by digest, whose beginning the prefix cache holds."""
        self._verifier = Verifier()
        self._engine: VllmEngine | None = None
        self._tokens: ChatTokens | None = None
        self._limit = 0
        self._room = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            with self._channel.makefile("rb") as lines:
                for line in lines:
                    self._orders.put(json.loads(line))
        except ConnectionError:
            pass  # a killed flow resets the socket instead of closing it
        except Exception:  # noqa: BLE001 (whatever it is, a host that cannot hear must not live on)
            traceback.print_exc()
        # The flow is gone: nobody can use what is being drawn. The engine may be deep in a step, so leave at once.
        leave()

    def _send(self, event: str, **values: Any) -> None:
        self._channel.sendall(json.dumps({"event": event, **values}).encode() + b"\n")

    def run(self) -> None:
        """Serve until the socket closes."""
        while True:
            try:
                order = self._orders.get(block=not self._loops)
            except queue.Empty:
                self._advance()
                continue
            self._obey(order)

    def _obey(self, order: dict[str, Any]) -> None:
        try:
            if order["do"] == "start":
                facts = self._start(HostSettings.model_validate(order["settings"]))
                self._send("done", id=order["id"], facts=facts)
            elif order["do"] == "swap":
                facts = self._swap(Path(order["folder"]))
                self._send("done", id=order["id"], facts=facts)
            elif order["do"] == "sleep":
                self._ready().sleep()
                self._send("done", id=order["id"])
            elif order["do"] == "draw":
                self._draw(DrawJob.model_validate(order["job"]))
        except Exception as error:  # noqa: BLE001 (reported to the flow, which raises it there)
            self._fail(order["id"], error)

    def _fail(self, job_id: str, error: Exception) -> None:
        traceback.print_exc()
        self._send(
            "failed", id=job_id, message=str(error), mendable=isinstance(error, FemError), type=type(error).__name__
        )

    def _ready(self) -> VllmEngine:
        if self._engine is None:
            raise RuntimeError("the host was given work before it was started")
        return self._engine

    def _start(self, settings: HostSettings) -> dict[str, Any]:
        self._tokens = ChatTokens(Path(settings.model_dir), settings.engine.trust_remote_code)
        stop = (lambda text: has_answer_line(text) is not None) if settings.stop_at_answer else None
        self._engine = VllmEngine(settings.engine, Path(settings.model_dir), stop)
        self._limit = 2 * (settings.engine.max_num_seqs or max(256, self._engine.max_num_seqs))
        self._room = settings.engine.max_model_len
        facts: dict[str, Any] = {"resolved_dtype": self._engine.dtype, "max_model_len": settings.engine.max_model_len}
        probe = read_probe(Path(settings.model_dir))
        difference = None if probe is None else self._engine.prove(probe)
        return facts | {"weights": "started", "proved_difference": difference}

    def _swap(self, folder: Path) -> dict[str, Any]:
        engine = self._ready()
        engine.wake()
        probe = read_probe(folder)
        self._prompts.clear()
        how = engine.swap(folder, probe)
        return {"weights": how, "proved_difference": None if probe is None else engine.prove(probe)}

    def _draw(self, job: DrawJob) -> None:
        tokens = self._tokens
        if tokens is None:
            raise RuntimeError("the host was given work before it was started")
        store = Store.open(job.store, check=False, patience=WORKING)
        manifest = store.manifest(job.problems)
        if manifest is None:
            raise FemError(
                f"The problems {job.problems!r} are not in the store {store.url!r}. Run the same command again."
            )
        everything = from_table(store.read_table(manifest))
        problems = [one for one in everything if job.only is None or one.problem_id in job.only]
        committed = store.parts(job.artifact, job.key)
        done = {n for n in range(-(-len(problems) // job.problems_per_part)) if part_name(n) in committed}

        known = job.others(everything)

        def render(problem: Problem, kind: PromptKind) -> list[int]:
            return tokens.ids(messages(job.prompts, problem, kind, job.exemplars, known))

        def verdict(text: str, finish_reason: str, problem: Problem) -> Judgement:
            return judge(text, finish_reason, problem, self._verifier)

        def write(part: int, table: pa.Table) -> None:
            record = store.write_table(job.artifact, part_name(part), table, job.key)
            self._send("part", id=job.id, name=record.path, rows=record.rows)

        looker: Looker | None = None
        if (shown := job.plain_exemplars) is not None:
            looker = ProbeLooker(
                plain=lambda problem: tokens.ids(messages(job.prompts, problem, "plain", shown)),
                direct=lambda problem: tokens.closed(direct_text(problem)),
            )
        elif job.looks:
            looker = Looker(job.looks, render=render, text_ids=tokens.text_ids, judge=verdict, room=self._room)
        self._loops[job.id] = DrawLoop(
            job.id,
            problems,
            job.plan(),
            DrawSettings(
                job.seed, job.iteration, job.exemplars, job.temperature, job.top_p, job.max_tokens, job.greedy_first
            ),
            part_size=job.problems_per_part,
            done_parts=done,
            render=render,
            judge=verdict,
            write_part=write,
            looker=looker,
        )
        prompt = digest([job.prompts.model_dump(mode="json"), job.stages[0][0], job.exemplars])
        if prompt not in self._prompts:
            self._prompts.add(prompt)
            self._cold.add(job.id)
        self._send("began", id=job.id, total=self._loops[job.id].total, reused_parts=len(done))

    def _advance(self) -> None:
        """One engine step for all jobs; the older job is fed first."""
        engine = self._ready()
        try:
            for job_id, loop in self._loops.items():
                # The first draw goes ahead alone: what its prompt shares with the others is then computed once.
                loop.fill(engine, engine.unfinished + 1 if job_id in self._cold else self._limit)
            self._cold.clear()
            for loop in self._loops.values():
                loop.fill_ahead(engine, engine.floor)
            finished = engine.step() if engine.unfinished else []
            for one in finished:
                self._loops[one.request_id.split("/", 1)[0]].receive(one, engine)
        except Exception as error:  # the engine or the store failed: every job on it has
            for job_id in list(self._loops):
                self._fail(job_id, error)
            raise
        now = time.monotonic()
        for job_id, loop in list(self._loops.items()):
            if loop.done or now - self._reported.get(job_id, 0.0) >= PROGRESS_SECONDS:
                self._reported[job_id] = now
                whole = {"generated": engine.generated, "unfinished": engine.unfinished, "waiting": engine.waiting}
                self._send(
                    "progress", id=job_id, total=loop.total, draining=loop.draining, **vars(loop.counts), engine=whole
                )
            if loop.done:
                del self._loops[job_id]
                self._send("done", id=job_id)


def main() -> None:
    """Entry point: ``python -m fem_core.sample.host FD`` with an inherited socket."""
    host = Host(socket.socket(fileno=int(sys.argv[1])))
    with contextlib.suppress(Exception):  # "start" meets it again, and tells the flow
        warm_up()
    host.run()


if __name__ == "__main__":
    main()
