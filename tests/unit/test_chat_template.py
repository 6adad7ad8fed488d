"""A prompt is the same every day, whatever the model's chat template makes of the date."""

from datetime import datetime
from pathlib import Path

import pytest
import trl
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

from fem_core.chat_template import undated

LLAMA = (Path(trl.__file__).parent / "chat_templates" / "llama3_2.jinja").read_text()
CHAT = [[{"role": "user", "content": "Which day is it?"}]]


def rendered(template: str, monkeypatch: pytest.MonkeyPatch, day: datetime) -> str:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return day

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    (text,), _ = render_jinja_template(CHAT, chat_template=template, bos_token="<bos>", add_generation_prompt=True)
    return str(text)


def test_llamas_template_writes_the_same_day_every_day(monkeypatch: pytest.MonkeyPatch) -> None:
    days = [datetime(2026, 12, 1), datetime(2027, 1, 2)]
    as_it_is = [rendered(LLAMA, monkeypatch, day) for day in days]
    assert "Today Date: 01 Dec 2026" in as_it_is[0] and "Today Date: 02 Jan 2027" in as_it_is[1]
    ours = {rendered(undated(LLAMA), monkeypatch, day) for day in days}
    assert ours == {as_it_is[0].replace("01 Dec 2026", "26 Jul 2024")}


@pytest.mark.parametrize(
    ("call", "written"), [("strftime_now('%Y-%m-%d')", "2024-07-26"), ('strftime_now( "%d %B" )', "26 July")]
)
def test_every_form_of_the_date_is_written(call: str, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rendered(undated("on {{ " + call + " }}"), monkeypatch, datetime(2030, 1, 1)) == f"on {written}"


def test_other_templates_are_left_as_they_are() -> None:
    template = "{% if strftime_now is defined %}{{ messages[0]['content'] }}{% endif %}"
    assert undated(template) == template
