"""A run whose every text is what a hostile model or data set would write: markup, SQL, escapes, direction marks, NULs.

Contract: ``make_hostile_run(store)`` writes iteration 1 of the run ``hostile``, by the steps' own code but for the draws.
Each text has ``MARK`` in it, which a page shows as text and nowhere as anything else.
"""

import pyarrow as pa
from made_run import made_config

from fem_core.filter.rationales import filter_attempts
from fem_core.problems.problem import Problem, make_problem, to_table
from fem_core.schemas import ATTEMPTS
from fem_core.store import layout
from fem_core.store.manifest import InputRef
from fem_core.store.store import Store
from tasks import filter as filter_task
from tasks import prepare, sample, step

MARK = "hostile-mark"
SCRIPT = f"<script>document.title = '{MARK}'</script>"
TEXTS = [
    f"{SCRIPT}<img src=x onerror=\"document.title='{MARK}'\"></p></article><iframe src='https://a.example'></iframe>\nAnswer: 2",
    f"'; DROP TABLE attempts; -- {MARK} \" %_\\ {{{{ 7 * 191 }}}} {{% raw %}}\nAnswer: 2",
    f"\x1b[31m{MARK}\x1b[0m \u202ereversed\u202c \u0000 after a NUL\u200b \ue000not a hint\ue001\nAnswer: 2",
    f"{MARK} " + "x" * 1_200_000,
    f"{MARK}\n" * 5_000 + "Answer: 2",
]
"""One attempt each."""


def hostile_problem() -> Problem:
    """A question that is no better."""
    return make_problem(
        f"What is {SCRIPT} {{answer}} \x1b[2J\u202e?", f"2<b>{MARK}</b>", "text", choices=("<i>1</i>", "2")
    )


def make_hostile_run(store: Store) -> Problem:
    """Write the run; its problem."""
    config, problem = made_config("hostile"), hostile_problem()
    store.create_run(prepare.run_record("hostile", config))
    source = InputRef(role=f"{SCRIPT}", artifact="sums.jsonl", digest="5" * 64)
    todo = prepare.problems_work("hostile", config, "train", (source,))
    file = store.write_table(todo.artifact, layout.part_name(0), to_table([problem]), todo.key)
    train = store.commit(todo.manifest([file], step.now(), stats={"problems": 1, "note": SCRIPT}))
    todo = sample.work("hostile", config, 1, train, train)
    same = {
        "problem_id": problem.problem_id,
        "exemplars": 0,
        "prompt_tokens": 9,
        "completion_tokens": 9,
        "logprob": -2.0,
    }
    rows = [
        same
        | {
            "attempt": n,
            "text": text,
            "prompt_kind": "hinted" if n % 2 else "plain",
            "seed": n,
            "finish_reason": "stop",
        }
        | (
            {"answer": SCRIPT, "verdict": "wrong_answer"}
            if n % 2
            else {"answer": problem.answer, "verdict": "accepted"}
        )
        for n, text in enumerate(TEXTS)
    ]
    table = pa.Table.from_pylist(rows, schema=ATTEMPTS)
    file = store.write_table(todo.artifact, layout.part_name(0), table, todo.key)
    attempts = store.commit(todo.manifest([file], step.now(), stats={"draws": len(rows), "completion_tokens": 45}))
    filtered = filter_attempts([problem], [table], config.filter, config.prompts)
    for kind, made in (("verdicts", filtered.verdicts), ("rationales", filtered.rationales)):
        todo = filter_task.work("hostile", config, 1, kind, train, attempts)
        file = store.write_table(todo.artifact, layout.part_name(0), made, todo.key)
        store.commit(todo.manifest([file], step.now(), stats=filtered.stats))
    return problem
