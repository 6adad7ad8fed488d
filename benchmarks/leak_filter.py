"""How often is the leak filter right? Precision and recall on labelled draws, and false alarms where nothing can leak.

``python -m benchmarks.leak_filter [--data FOLDER]`` prints a Markdown row for tests/unit/filter/leak_sample.jsonl: 160
hinted draws of SmolLM2-135M-Instruct (temperature 0.8, at most 64 tokens, four hinted wordings), labelled by one reader,
who wrote the patterns afterwards. With a folder of data sets it adds texts that were written without a hint: GSM8K's gold
and sampled solutions, and answers of assistants to people, which are no rationales.
"""

import argparse
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fem_core.config import PromptsConfig
from fem_core.filter.leak import Leaks
from fem_core.problems.problem import make_problem

SAMPLE = Path(__file__).parents[1] / "tests" / "unit" / "filter" / "leak_sample.jsonl"


def labelled() -> Iterator[tuple[bool, bool]]:
    """Of every labelled draw, whether it leaks and whether the filter says so."""
    for line in SAMPLE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        leaks = Leaks(PromptsConfig(hinted=row["hinted"]))
        found = leaks.find(row["text"], make_problem(row["question"], row["answer"], "text"))
        yield row["leak"], found is not None


def unhinted(data: Path) -> Iterator[tuple[str, str, str, str]]:
    """Name of the source, question, answer and text."""
    for row in _rows(data / "gsm8k" / "train.jsonl"):
        yield "GSM8K, gold solutions", row["question"], row["answer"].rpartition("####")[2].strip(), row["answer"]
    for row in _rows(data / "gsm8k" / "example_model_solutions.jsonl.gz"):
        for value in row.values():
            if isinstance(value, dict):
                answer = str(row["ground_truth"]).rpartition("####")[2].strip()
                yield "GSM8K, sampled solutions", row["question"], answer, value["solution"]
    for row in _rows(data / "autoj" / "testdata_pairwise.jsonl.gz"):
        for name in ("response 1", "response 2"):
            yield "Auto-J, responses", row["prompt"], "", row[name]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    yield from (json.loads(line) for line in text.split("\n") if line)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=None, help="folder with gsm8k/ and autoj/")
    chosen = parser.parse_args(argv)
    rows = list(labelled())
    leaks, hits, right = sum(leak for leak, _ in rows), sum(hit for _, hit in rows), sum(map(all, rows))
    print("| draws | leaks | found | false alarms | precision | recall |\n|---|---|---|---|---|---|")
    print(f"| {len(rows)} | {leaks} | {right} | {hits - right} | {right / hits:.2f} | {right / leaks:.2f} |")
    if chosen.data is None:
        return
    leaks_of_default = Leaks(PromptsConfig())
    counts: dict[str, list[int]] = {}
    for name, question, answer, text in unhinted(chosen.data):
        count = counts.setdefault(name, [0, 0])
        count[0] += 1
        count[1] += leaks_of_default.find(text, make_problem(question, answer, "text")) is not None
    print("\n| texts without a hint | number | false alarms |\n|---|---|---|")
    for name, (number, alarms) in counts.items():
        print(f"| {name} | {number:,} | {alarms} |")


if __name__ == "__main__":
    main()
