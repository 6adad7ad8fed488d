"""reasoning-gym's scorers, and math-verify, in one killable child process.

Contract: an answer is scored within its time limit or ``VerifierTimeout`` is raised and the child is gone; a scorer
that raises scores 0 with the reason. Model answers are untrusted text. Three fences stand before them: generators whose
scorers evaluate text take digits and arithmetic signs only (``EVALUATING``) or are refused (``REFUSED``), and
math-verify reads LaTeX only, since its reader of plain expressions evaluates them; the child has no environment worth
reading, small resource limits and an audit hook that stops processes, sockets and writes; and nothing but JSON lines
passes between the two, so a child cannot make its parent run anything.

The child (``python -m fem_core.problems.verifier``) ends when its standard input does, so it does not outlive its
parent.
"""

import contextlib
import importlib
import json
import math
import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fem_core.errors import FemError, VerifierTimeout
from fem_core.problems import lossless

_ARITHMETIC = re.compile(r"[0-9 \t+\-*/().,]{1,300}")


def is_arithmetic(answer: str) -> bool:
    """Whether an answer is at most 300 ASCII digits, blanks and ``+ - * / ( ) . ,``, without a power."""
    return _ARITHMETIC.fullmatch(answer) is not None and re.search(r"\*\s*\*", answer) is None


EVALUATING: dict[str, Callable[[str], bool]] = {
    "binary_matrix": is_arithmetic,
    "countdown": is_arithmetic,
    "puzzle24": is_arithmetic,
    "spiral_matrix": is_arithmetic,
}
"""Generators (reasoning-gym 0.1.25) whose scorers pass the answer to ``eval`` or to SymPy's ``parse_expr``, which calls
``eval``, and what an answer must satisfy to get there. Other answers score 0 with the reason ``refused characters``."""

REFUSED: dict[str, str] = {
    "composite": "it takes generators as its parameters and would go round the checks that each of them needs",
    "intermediate_integration": "its scorer evaluates the answer as code, and its answers need letters",
    "n_queens": "its scorer evaluates the answer as code, and its answers need letters",
    "polynomial_multiplication": "its scorer evaluates the answer as code, and its answers need letters",
    "simple_integration": "its scorer evaluates the answer as code, and its answers need letters",
    "string_insertion": "its scorer evaluates the answer as code, and its answers need letters",
}
"""Generators that cannot be fenced, and why. tests/unit/problems/test_verifier.py searches the installed package for
others."""

MATH = "math"
"""What ``source`` says in the record of a problem that math-verify judges."""

_LONGEST_FORMULA = 1000
"""Characters of an answer that math-verify is asked about; longer ones score 0 with the reason ``too long``."""

_START_LIMIT = 120.0
"""Seconds for the child to import reasoning-gym, or to set up one generator or math-verify."""


def math_record(gold: str, time_limit: float) -> str:
    """The ``verifier`` column of a problem whose answer is a formula.

    Args:
        gold: y* in LaTeX, without dollar signs.
        time_limit: seconds that a comparison may take.
    """
    return lossless.dumps({"source": MATH, "gold": gold, "time_limit": time_limit})


@dataclass(frozen=True)
class Score:
    """What a scorer says of one answer."""

    value: float
    """0 to 1."""
    reason: str | None = None
    """Why the scorer was not asked, or how it failed; None where it answered."""


class _ChildDied(Exception):
    """The child ended without an answer."""


class Verifier:
    """Scores answers in a child process that is started when it is first needed. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._prepared: set[str] = set()
        self._buffer = b""

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child, if there is one. A later call to ``score`` starts another."""
        with self._lock:
            self._stop()

    def score(self, record: str, answer: str) -> Score:
        """The score of an answer.

        Args:
            record: a problem's ``verifier`` column.

        Raises:
            VerifierTimeout: the scorer took longer than the record's time limit.
            FemError: the child cannot start, or dies again after a restart.
        """
        data = lossless.loads(record)
        if data["source"] == MATH:
            return Score(0.0, "too long") if len(answer) > _LONGEST_FORMULA else self._decided(record, data, answer)
        if data["dataset"] in REFUSED:
            raise FemError(
                f"The generator {data['dataset']} is refused: {REFUSED[data['dataset']]}. Choose another one."
            )
        fence = EVALUATING.get(data["dataset"])
        if fence is not None and not fence(answer):
            return Score(0.0, "refused characters")
        return self._decided(record, data, answer)

    def _decided(self, record: str, data: dict[str, Any], answer: str) -> Score:
        """The child's score; a child that dies is replaced, and asked about y* before the answer is blamed."""
        with self._lock:
            try:
                return self._score(record, data, answer)
            except _ChildDied:
                pass
            try:
                return self._score(record, data, answer)
            except _ChildDied:
                pass
            try:
                self._score(record, data, data["gold"] if data["source"] == MATH else str(data["entry"]["answer"]))
            except (_ChildDied, VerifierTimeout) as error:
                raise FemError(
                    f"The verifier's process died three times in a row on problems of {_named(data)}. "
                    "Check the machine's memory, and that reasoning_gym can be imported."
                ) from error
            return Score(0.0, "the scorer's process died on this answer, twice")

    def _score(self, record: str, data: dict[str, Any], answer: str) -> Score:
        limit = float(data["time_limit"])
        self._start()
        generator = lossless.dumps(None if data["source"] == MATH else [data["dataset"], data["params"]])
        if generator not in self._prepared:
            reply = self._ask({"prepare": generator}, _START_LIMIT)
            if "error" in reply:
                package = (
                    "math-verify is installed"
                    if data["source"] == MATH
                    else ("the installed reasoning_gym is the one that made these problems")
                )
                raise FemError(
                    f"The scorer of {_named(data)} cannot be set up: {reply['error']}. Check that {package}."
                )
            self._prepared.add(generator)
        reply = self._ask({"generator": generator, "record": record, "answer": answer, "limit": limit}, limit)
        return Score(float(reply["score"]), reply["reason"])

    def _start(self) -> None:
        if self._child is not None:
            return
        root = str(Path(__file__).resolve().parents[2])
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "fem_core.problems.verifier"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={
                "PATH": os.defpath,
                "PYTHONPATH": root,
                "PYTHONHASHSEED": "0",
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "LANG": "C.UTF-8",
            },
        )
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)
        try:
            reply = self._reply(_START_LIMIT)
        except (_ChildDied, VerifierTimeout) as error:
            raise FemError(
                "The verifier's process did not start. Check that reasoning_gym is installed: run "
                "python -m fem_core.problems.verifier and read what it says."
            ) from error
        if "error" in reply:
            self._stop()
            raise FemError(f"The verifier's process did not start: {reply['error']}. Install reasoning_gym.")

    def _stop(self) -> None:
        child, self._child = self._child, None
        self._prepared.clear()
        self._buffer = b""
        if child is None:
            return
        child.kill()
        assert child.stdin is not None and child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()
        child.wait()

    def _ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        assert self._child is not None and self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError as error:
            self._stop()
            raise _ChildDied from error
        return self._reply(limit)

    def _reply(self, limit: float) -> dict[str, Any]:
        """The child's next line. On a timeout or at its end the child is stopped."""
        assert self._child is not None and self._child.stdout is not None
        deadline = time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._stop()
                    raise VerifierTimeout(f"the scorer took longer than {limit:g} s")
                if not selector.select(left):
                    continue
                piece = self._child.stdout.read(65536)
                if piece == b"":
                    self._stop()
                    raise _ChildDied
                self._buffer += piece or b""
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply


def _named(data: dict[str, Any]) -> str:
    return "math-verify" if data["source"] == MATH else str(data["dataset"])


def _serve() -> None:
    """The child: one JSON line in, one out, until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message).encode() + b"\n")
        replies.flush()

    try:
        importlib.import_module("reasoning_gym")
        factory = importlib.import_module("reasoning_gym.factory")
    except ImportError as error:
        reply({"error": str(error)})
        return
    _fence_in()
    reply({"ready": True})
    scorers: dict[str, Callable[[str, dict[str, Any]], float]] = {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if "prepare" in request:
            wanted = lossless.loads(request["prepare"])
            try:
                scorers[request["prepare"]] = _math_scorer() if wanted is None else _generator_scorer(factory, *wanted)
                reply({})
            except Exception as error:  # noqa: BLE001 - the library may raise anything
                reply({"error": f"{type(error).__name__}: {error}"})
            continue
        record = lossless.loads(request["record"])
        # Should the parent be gone, nobody else ends a scorer that hangs: SIGALRM's default action does.
        signal.setitimer(signal.ITIMER_REAL, request["limit"] + 2)
        try:
            score = scorers[request["generator"]](request["answer"], record)
            reason = None if math.isfinite(score) else f"the scorer gave {score}"
        except Exception as error:  # noqa: BLE001 - a scorer may raise anything on a model's answer
            score, reason = 0.0, f"{type(error).__name__}: {str(error)[:200]}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        reply({"score": min(max(score, 0.0), 1.0) if reason is None else 0.0, "reason": reason})


def _generator_scorer(factory: Any, name: str, params: dict[str, Any]) -> Callable[[str, dict[str, Any]], float]:
    dataset = factory.create_dataset(name, seed=0, size=10, **params)
    return lambda answer, record: float(dataset.score_answer(answer, record["entry"]))


def _math_scorer() -> Callable[[str, dict[str, Any]], float]:
    """math-verify on LaTeX, without its own time limits: the parent has one."""
    library = importlib.import_module("math_verify")
    reading = (library.LatexExtractionConfig(boxed_match_priority=0),)

    def parsed(text: str) -> Any:
        boxed = f"\\boxed{{{text.replace('$', '')}}}"
        return library.parse(boxed, extraction_config=reading, parsing_timeout=None)

    return lambda answer, record: float(library.verify(parsed(record["gold"]), parsed(answer), timeout_seconds=None))


_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill", "subprocess.", "socket.", "pty.",
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil.",
)  # fmt: skip
"""Audit events that no scorer has a reason to raise: processes, sockets, changes to files."""


def _fence_in() -> None:
    """Limits on what the child may use, and an audit hook on what it may do. There is no way back."""
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (24 * 3600, 24 * 3600))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def stop(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is not allowed in the verifier")
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError("writing files is not allowed in the verifier")

    sys.addaudithook(stop)


if __name__ == "__main__":
    _serve()
