"""The prompt that a reader is shown: it is the one that the run's own code renders, and what it takes from the hint is marked."""

import html
import json
import re
from pathlib import Path

import pytest
from made_run import made_config, problems_of

from fem_core.browse import prompt
from fem_core.hints import others
from fem_core.problems.problem import Problem, make_problem
from fem_core.prompts import ChatTokens, messages


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> ChatTokens:
    """A tokenizer of words, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    template = "{% for turn in messages %}<{{ turn.role }}> {{ turn.content | trim }} {% endfor %}<assistant>"
    known = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(known))
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
