"""Models of a few hundred kilobytes besides the vocabulary, and problems for them, for runs whose point is not what is
learnt.

Contract: ``tiny_llama`` has random weights; ``answering_llama`` was taught, in seconds, to answer every prompt with a
sentence and ``Answer: A``, so that real engines and trainers have something to accept and to train on. Both have
SmolLM2's tokenizer and chat template, and the same weights each time on one machine.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from fem_core.prompts import Message

SAID = "It is the first one.\nAnswer: A"


def tiny_llama(tokenizer_dir: Path, folder: Path, seed: int, spread: float = 0.2) -> Path:
    """A random float32 Llama of 2 layers and width 64 with tied embeddings.

    Args:
        spread: of the weights; with 0.2 predictions are far from uniform and depend on every layer, which tests of
            loading want; with 0.05 the model learns quickly.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,  # vLLM's CPU attention takes 32, 64, 80, ...
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=spread,
    )
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    torch.set_rng_state(generator_state)
    with torch.no_grad():
        # A longer vector makes a token's logit large at some positions: texts of this model have line breaks.
        model.model.embed_tokens.weight[tokenizer.encode("\n")[0]] *= 8
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def answering_llama(
    tokenizer_dir: Path, folder: Path, questions: Sequence[str | list[Message]], steps: int = 80, said: str = SAID
) -> Path:
    """A tiny Llama that answers like ``said``, most of the time at temperature 1.

    Args:
        questions: what it is taught with: a user's message each, or all messages of a chat.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_llama(tokenizer_dir, folder, seed=0, spread=0.05)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for step in range(steps):
        question = questions[step % len(questions)]
        chat = [{"role": "user", "content": question}] if isinstance(question, str) else question
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
        completion = [*tokenizer.encode(said), tokenizer.eos_token_id]
        ids = torch.tensor([[*prompt, *completion]])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def letters(folder: Path, count: int) -> list[str]:
    """Write ``letters.jsonl``: problems with two choices, of which a third have another answer than A; their questions."""
    questions = [f"Which of these letters comes first in row {n}?" for n in range(count)]
    rows = [
        {"question": q, "answer": "A" if n % 3 else "B", "choices": ["a" * (n + 1), "b" * (n + 1)]}
        for n, q in enumerate(questions)
    ]
    (folder / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return questions
