"""Do rationales of needle_haystack quote a statement that the question holds? A table of docs/findings.md.

``python -m benchmarks.quoted STORE PREFIX`` reads the greedy predictions after the last iteration of the store's runs whose
names begin with PREFIX, such as ``needle.pps.``, and prints how many of them quote such a statement ("The statement about
tea is: Bo hates tea."), by whether their answer is right. Reads only.
"""

import argparse
import re
from collections import Counter

from fem_core.filter.verdict import ACCEPTED
from fem_core.report.summary import summarise
from fem_core.store import layout
from fem_core.store.store import Store

_QUOTE = re.compile(r" is: (.+?)\.(?:\s|$)")


def quotes(text: str, question: str) -> bool:
    """Whether a rationale quotes a statement, word for word but for upper case, that stands in the question."""
    found = _QUOTE.search(text.split("Answer:")[0])
    statements = [one.strip() for one in question.lower().splitlines()[0].split(".")]
    return found is not None and found[1].strip().lower() in statements


def count(store: Store, run: str) -> Counter[tuple[bool, bool]]:
    """Of a run: predictions by whether they are right and whether they quote."""
    problems = store.manifest(layout.problems(run, "test"))
    predictions = store.manifest(layout.iteration(run, summarise(store, run).iterations, "predictions"))
    if problems is None or predictions is None:
        raise SystemExit(f"{run} is not finished.")
    asked = store.read_table(problems, ["problem_id", "question"]).to_pylist()
    questions = {row["problem_id"]: row["question"] for row in asked}
    rows = store.read_table(predictions, ["problem_id", "attempt", "text", "verdict"]).to_pylist()
    return Counter(
        (row["verdict"] == ACCEPTED, quotes(row["text"], questions[row["problem_id"]]))
        for row in rows
        if row["attempt"] == 0
    )


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="folder or URL")
    parser.add_argument("prefix", nargs="+", help="of names of finished runs")
    chosen = parser.parse_args(arguments)
    store = Store.open(chosen.store, check=False)
    print("| runs | right, quoting | right, not | wrong, quoting | wrong, not |\n|---|---|---|---|---|")
    for prefix in chosen.prefix:
        total: Counter[tuple[bool, bool]] = Counter()
        for run in (one.name for one in store.runs() if one.name.startswith(prefix)):
            total += count(store, run)
        cells = [total[right, quoted] for right in (True, False) for quoted in (True, False)]
        print(f"| {prefix} | {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
