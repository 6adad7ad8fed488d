"""Times a run's engine from the inside: read by every Python process that has this folder on PYTHONPATH.

Adds lines of JSON to the file ``FEM_CLOCK``: ``start`` (making an engine; what it imports it has imported beside the
start of Prefect's server), ``swap`` (a change of weights), and ``drawing`` and ``evaluating``: the seconds inside the
engine's steps, divided by how many draws of each were in flight, and the tokens that came out of them, dropped draws'
too. What lies between two steps (prompts, verdicts, part files) is not in them. Part of benchmarks/end_to_end.py;
nothing of the product reads this.
"""

import json
import os
import time

from benchmarks.at_import import patch_at_import

MODULE = "fem_core.sample.vllm_engine"


def _say(**figures: float) -> None:
    with open(os.environ["FEM_CLOCK"], "a") as file:
        file.write(json.dumps(figures) + "\n")


def _kind(request_id: str) -> str:
    return "evaluating" if request_id.startswith("evaluate") else "drawing"


def _patch(module) -> None:  # type: ignore[no-untyped-def]
    engine = module.VllmEngine
    init, swap, add, abort, step = engine.__init__, engine.swap, engine.add, engine.abort, engine.step
    flying: dict[str, set[str]] = {"drawing": set(), "evaluating": set()}
    spent = {"drawing": 0.0, "evaluating": 0.0, "generated": 0}

    def patched_init(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        init(self, *args, **kwargs)
        _say(start=time.perf_counter() - start)

    def patched_swap(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        try:
            return swap(self, *args, **kwargs)
        finally:
            _say(swap=time.perf_counter() - start)

    def patched_add(self, request_id, *args, **kwargs):  # type: ignore[no-untyped-def]
        flying[_kind(request_id)].add(request_id)
        return add(self, request_id, *args, **kwargs)

    def patched_abort(self, request_ids):  # type: ignore[no-untyped-def]
        for ids in flying.values():
            ids.difference_update(request_ids)
        return abort(self, request_ids)

    def patched_step(self):  # type: ignore[no-untyped-def]
        start, before = time.perf_counter(), self.generated
        finished = step(self)
        seconds = time.perf_counter() - start
        total = sum(map(len, flying.values())) or 1
        for kind, ids in flying.items():
            spent[kind] += seconds * len(ids) / total
        spent["generated"] += self.generated - before
        for one in finished:
            flying[_kind(one.request_id)].discard(one.request_id)
        if time.perf_counter() - said[0] > 1 or not any(flying.values()):
            said[0] = time.perf_counter()
            _say(**spent)
            spent.update(drawing=0.0, evaluating=0.0, generated=0)
        return finished

    said = [0.0]
    engine.__init__, engine.swap, engine.add = patched_init, patched_swap, patched_add
    engine.abort, engine.step = patched_abort, patched_step


if os.environ.get("FEM_CLOCK"):
    patch_at_import(MODULE, _patch)
