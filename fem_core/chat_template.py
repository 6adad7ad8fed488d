"""A model's chat template with a day of its own instead of today.

Some templates write the date into every prompt (Llama 3.2: "Today Date: ..."). Then a run that goes on tomorrow would draw,
train and score with other prompts than today, and no audit could render them again.
"""

import re
from datetime import date
from typing import Any

DAY = date(2024, 7, 26)
"""What Llama 3.2's own template falls back to where it cannot know the date."""

_NOW = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>[^'\"\\]*)(?P=quote)\s*\)")


def undated(template: str) -> str:
    """The template with ``DAY`` wherever it asks for the time."""
    return _NOW.sub(lambda call: repr(DAY.strftime(call["format"])), template)


def load_tokenizer(model_dir: str, trust_remote_code: bool = False) -> Any:
    """A model folder's tokenizer, whose chat template is the same every day. Loads transformers' tokenizers."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
    named = tokenizer.chat_template
    if isinstance(named, dict):
        tokenizer.chat_template = {name: undated(template) for name, template in named.items()}
    elif named:
        tokenizer.chat_template = undated(named)
    return tokenizer
