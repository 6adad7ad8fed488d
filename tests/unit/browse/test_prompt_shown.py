"""The prompt that a reader is shown: it is the one that the run's own code renders, and what it takes from the hint is marked."""

import html
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from made_run import made_config, problems_of
from starlette.testclient import TestClient

from fem_core.browse import prompt
from fem_core.browse.app import application
from fem_core.browse.library import Library
from fem_core.hints import others
from fem_core.problems.problem import Problem, make_problem, to_table
from fem_core.prompts import ChatTokens, messages
from fem_core.schemas import ATTEMPTS
from fem_core.store import layout
from fem_core.store.manifest import InputRef
from fem_core.store.store import Store
from tasks import prepare, sample, step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of words, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tokenizer")
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    template = "{% for turn in messages %}<{{ turn.role }}> {{ turn.content | trim }} {% endfor %}<assistant>"
    known = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(known))
    return folder


@pytest.fixture(scope="module")
def tokens(folder: Path) -> ChatTokens:
    return ChatTokens(folder)


def marked(shown: str) -> list[str]:
    return [html.unescape(one) for one in re.findall(r'<mark class="hint"[^>]*>(.*?)</mark>', shown, re.DOTALL)]


@pytest.mark.parametrize("hint", ["answer", "candidates", "solution"])
def test_the_prompt_is_the_runs_own_with_the_hint_marked(tokens: ChatTokens, hint: str) -> None:
    exemplar = {"question": "1 + 1?", "answer": "2", "rationale": "One more than 1 is 2."}
    config = made_config(prompts={"hint": hint, "exemplars": [exemplar], "sample_exemplars": 1}, seed=4)
    problems = problems_of(range(10), explained=True)
    problem = problems[4]
    known = others(config.prompts, problems, config.seed)
    for kind in ("plain", "hinted"):
        chat = prompt.chat(config.identity(), problem, kind, 1, problems)
        shown, count = prompt.rendered(tokens, chat)
        exact = messages(config.prompts, problem, "plain" if kind == "plain" else "hinted", 1, known)
        assert html.unescape(re.sub(r"</?mark[^>]*>", "", shown)) == tokens.text(exact)
        assert count == len(tokens.ids(exact))
        found = marked(shown)
        if kind == "plain":
            assert found == []
        elif hint == "answer":
            assert found == ["2", "9"], "y* of the exemplar and of the problem; the 9 of the sum stays as it is"
        elif hint == "candidates":
            assert len(found) == 2 and "9" in found[1].split(" or ")
        else:
            assert "One more than 1 is 2." in found and problem.rationale in found


def test_a_question_cannot_pass_for_the_hint(tokens: ChatTokens) -> None:
    problem: Problem = make_problem("Is \ue000this\ue001 a hint? {answer}", "no", "text")
    shown, _ = prompt.rendered(tokens, prompt.chat(made_config().identity(), problem, "hinted", 0))
    assert "Is \ue000this\ue001 a hint? {answer}" in shown and marked(shown) == ["no"]


def test_the_page_counts_the_tokens_again(folder: Path, tokens: ChatTokens, tmp_path: Path) -> None:
    """The first attempt has as many prompt tokens as its prompt; of the second, another number is recorded."""
    store, config, problems = Store.open(str(tmp_path / "store")), made_config(), problems_of(range(1, 3))
    store.create_run(prepare.run_record("made", config))
    todo = prepare.model_work("made", config)
    files = [store.write_bytes(todo.artifact, file.name, file.read_bytes()) for file in folder.iterdir()]
    model = store.commit(todo.manifest(files, step.now(), stats={}))
    todo = prepare.problems_work("made", config, "train", (InputRef(role="x", artifact="x", digest="5" * 64),))
    file = store.write_table(todo.artifact, layout.part_name(0), to_table(problems), todo.key)
    train = store.commit(todo.manifest([file], step.now(), stats={}))
    todo = sample.work("made", config, 1, train, model)
    rows = [
        {"problem_id": one.problem_id, "attempt": 0, "prompt_kind": "hinted", "exemplars": 0, "text": "Answer: 3"}
        | {
            "answer": "3",
            "verdict": "accepted",
            "finish_reason": "stop",
            "completion_tokens": 2,
            "logprob": -1.0,
            "seed": 1,
        }
        | {"prompt_tokens": len(tokens.ids(messages(config.prompts, one, "hinted", 0))) + more}
        for more, one in enumerate(problems)
    ]
    file = store.write_table(todo.artifact, layout.part_name(0), pa.Table.from_pylist(rows, schema=ATTEMPTS), todo.key)
    store.commit(todo.manifest([file], step.now(), stats={}))

    library = Library(store.url, tmp_path / "cache")
    client = TestClient(application(library), base_url="http://127.0.0.1")
    pages = [client.get(f"/runs/made/iterations/1/attempts/{one.problem_id}/0").text for one in problems]
    library.close()
    assert "tokens, as the engine counted them" in pages[0] and "&lt;assistant&gt;" in pages[0]
    assert "so it is not this text to the letter" in pages[1]
    assert [marked(page)[-1] for page in pages] == ["3", "5"]
