"""The README.md of an exported checkpoint: what it is, from what, how good, and how to load it.

Contract: it says what the manifests, the predictions and the run's configuration record, and nothing else; where they
record nothing, as on licences, it says so. Texts from data and configuration are escaped or fenced. The same records give
the same card.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from fem_core.config import FilterConfig, SchemeConfig
from fem_core.errors import FemError
from fem_core.report.diagnosis import answers
from fem_core.report.signatures import lines, signatures
from fem_core.report.summary import HEADERS, cells, further, markdown_table, notes, summarise
from fem_core.report.text import md, printable
from fem_core.sample.given import is_given
from fem_core.sample.schemes import plan_of
from fem_core.store import fork, layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store

_COLUMNS = HEADERS[:6]
"""Of the run's table: what it scored and used, not what it cost."""

_SCHEMES = {
    "rs": "RS, rejection sampling",
    "star": "STaR",
    "pps": "PPS, prompt posterior sampling",
    "answer_only": "answer-only fine-tuning, a control: the completion is the right answer without a rationale",
    "human": "fine-tuning on the data's own rationales, a control",
}
_FEM = (
    "fine-tuned by filtered expectation maximization (arXiv 2512.20169) to reason before it answers: in each iteration "
    "the model draws rationales, those that end in the right answer are kept, and the model is trained on them."
)
_GIVEN = {
    "answer_only": "fine-tuned on right answers alone, as a control arm: it was not taught to reason.",
    "human": "fine-tuned on the rationales that the data come with, as a control arm: it drew none of its own.",
}


def model_card(store: Store, run: str, k: int) -> str:
    """The card of the checkpoint of iteration k, as Markdown with YAML front matter.

    Raises:
        FemError: there is no such run, or it has no such checkpoint.
    """
    summary = summarise(store, run)
    config = summary.record.config
    checkpoint = _needed(store, layout.iteration(run, k, "checkpoint"))
    model = _needed(store, layout.model(run))
    base = base_name(model)
    rows = [row for row, line in zip(cells(summary), summary.rows, strict=True) if line.iteration <= k]
    table = [_row(_COLUMNS), "|" + " --- |" * len(_COLUMNS), *(_row(row[: len(_COLUMNS)]) for row in rows)]
    baseline = [note for note in notes(summary) if note.startswith("Always answering")]
    so_far = replace(summary, rows=[row for row in summary.rows if row.iteration <= k])
    measured = [line for one in further(so_far) for line in ("", *markdown_table(one))]
    warnings = lines(signatures(so_far, [row for row in answers(store, run) if row["iteration"] <= k]))
    parent = fork.parent_of(summary.record)
    return "\n".join(
        [
            _front_matter(config, base if model.location else None),
            f"# {md(run)}, iteration {k} of {summary.iterations}",
            "",
            f"This is {md(base)}, {_GIVEN.get(config['scheme']['name'], _FEM)}",
            *(["", f"The run was forked from {md(parent.run)}@{parent.iteration}."] if parent else []),
            "",
            "## What this folder holds",
            "",
            *_content(checkpoint, config),
            "",
            "## Scores",
            "",
            "Accuracy of greedy answers on held-out problems, with 95 % Wilson intervals. Iteration 0 is the base model.",
            "",
            *table,
            *(["", *baseline] if baseline else []),
            *measured,
            *(["", "The run's figures up to here give reason to look closer:", "", *warnings] if warnings else []),
            "",
            "## Data",
            "",
            *_data(store, run, config["problems"]),
            "",
            "## Method",
            "",
            *_method(config, checkpoint),
            "",
            "## Prompt",
            "",
            *_prompt(config["prompts"]),
            "",
            "## How to load it",
            "",
            *_loading(config),
            "",
            "## Where it comes from",
            "",
            *_lineage(store, run, k, checkpoint, model),
            "",
            "## Licence",
            "",
            "The run's records name no licence. What holds for the base model and for the data sources holds here.",
            "",
        ]
    )


def base_name(model: Manifest) -> str:
    """The base model as people know it: its hub or package name, or the last part of its folder's path."""
    place = model.location or "a model in the store"
    return place.rstrip("/").rpartition("/")[2] if place.startswith(("/", "~", ".")) else place


def _needed(store: Store, artifact: str) -> Manifest:
    manifest = store.manifest(artifact)
    if manifest is None:
        raise FemError(f"{store.url} has no {artifact}. `fem ls RUN` lists what a run has.")
    return manifest


def _front_matter(config: Mapping[str, Any], base: str | None) -> str:
    problems = config["problems"]
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": printable(base)} if base else {}),
        "license": "other",
        "license_name": "see-base-model-and-data-sources",
        "tags": ["expectation-maximization", "reasoning", "fem", str(config["scheme"]["name"])],
    }
    if problems.get("hub"):
        front["datasets"] = [printable(str(problems["hub"]))]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n"


def _content(checkpoint: Manifest, config: Mapping[str, Any]) -> list[str]:
    train = checkpoint.step.config["train"]
    size = sum(record.bytes for record in checkpoint.files if record.path.endswith(".safetensors"))
    kind = "Full fine-tuning."
    if train["method"] == "lora":
        lora = train["lora"]
        kind = (
            f"LoRA adapters of rank {lora['r']} (alpha {lora['alpha']}) were trained and merged into the weights; this "
            "is the merged model, and there is no adapter file."
        )
    lines = [
        f"A whole model in safetensors ({size} bytes of weights, saved as {train['save_dtype']}) with the base model's "
        f"tokenizer and chat template. {kind}",
        "`training_log.parquet` is the log of the last iteration's training, `fem_manifest.json` the record of every "
        "file with its SHA-256.",
    ]
    if config["model"].get("trust_remote_code"):
        lines.append("The model needs Python code that comes with it: read that code before you load it.")
    return lines


def _data(store: Store, run: str, problems: Mapping[str, Any]) -> list[str]:
    named = [("source", problems["source"])]
    keys = ("dataset", "form", "attribute", "axis", "hub", "hub_config", "hub_revision")
    unread = {"axis"} if problems.get("form") == "comparisons" else set()
    named += [(key, problems[key]) for key in keys if problems.get(key) and key not in unread]
    named += [(f"params.{key}", value) for key, value in sorted(problems.get("params", {}).items())]
    lines = [f"- {md(key)}: {md(str(value))}" for key, value in named]
    for split in ("train", "test"):
        manifest = _needed(store, layout.problems(run, split))
        lines.append(f"- {split}: {manifest.stats['problems']} problems, digest `{manifest.digest}`")
        lines += [f"  - read from {md(ref.role)}, digest `{ref.digest}`" for ref in manifest.inputs]
    return lines


def _method(config: Mapping[str, Any], checkpoint: Manifest) -> list[str]:
    sample, did = config["sample"], checkpoint.step.config
    train, scheme = did["train"], SchemeConfig.model_validate(config["scheme"])
    plan = ", then ".join(f"{stage.kind} prompt × {stage.budget}" for stage in plan_of(scheme).stages)
    hint = config["prompts"].get("hint", "answer")
    filters = FilterConfig.model_validate(config["filter"]).model_dump(exclude_defaults=True)
    drawn = [
        f"- scheme: {_SCHEMES[scheme.name]} ({plan}); keeps {'the first' if scheme.keep == 'first' else 'every'} accepted draw",
        *([f"- hint of the hinted prompt: {hint}"] if hint != "answer" and "hinted" in plan_of(scheme).kinds else []),
        f"- sampling: temperature {sample['temperature']}, top_p {sample['top_p']}, at most {sample['max_tokens']} tokens",
    ]
    return [
        *([f"- scheme: {_SCHEMES[scheme.name]}"] if is_given(scheme) else drawn),
        *(["- filters: " + ", ".join(f"{name} {value}" for name, value in filters.items())] if filters else []),
        f"- training: {train['method']}, from the {train['init']} checkpoint, learning rate {did['learning_rate']:.3g} in "
        f"this iteration, {train['epochs']:g} epochs, batches of {train['batch_size']}; {checkpoint.stats['rationales']} "
        "rationales",
        f"- seed: {config['seed']}",
    ]


def _prompt(prompts: Mapping[str, Any]) -> list[str]:
    shown = int(prompts["train_exemplars"])
    lines = [
        "The model was trained and scored with this prompt as the user's turn, `{question}` being the question:",
        "",
    ]
    lines += _fenced(prompts["plain"])
    if prompts["system"] is not None:
        lines += ["", "and this system message:", "", *_fenced(prompts["system"])]
    if shown:
        lines += ["", f"after {shown} worked examples, each as a user's turn and its answer:", ""]
        for exemplar in prompts["exemplars"][:shown]:
            answer = f"{exemplar['rationale']}\nAnswer: {exemplar['answer']}"
            lines += [*_fenced(exemplar["question"]), "", *_fenced(answer), ""]
    return lines


def _loading(config: Mapping[str, Any]) -> list[str]:
    prompts = config["prompts"]
    remote = ", trust_remote_code=True" if config["model"].get("trust_remote_code") else ""
    chat: list[str] = []
    if prompts["system"] is not None:
        chat.append(f'    {{"role": "system", "content": {prompts["system"]!r}}},')
    for exemplar in prompts["exemplars"][: int(prompts["train_exemplars"])]:
        answer = f"{exemplar['rationale']}\nAnswer: {exemplar['answer']}"
        chat.append(f'    {{"role": "user", "content": plain.replace("{{question}}", {exemplar["question"]!r})}},')
        chat.append(f'    {{"role": "assistant", "content": {answer!r}}},')
    code = [
        'FOLDER = "."  # where this README lies, or its name on the hub',
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained(FOLDER{remote})",
        f"model = AutoModelForCausalLM.from_pretrained(FOLDER{remote})",
        f"plain = {prompts['plain']!r}",
        "chat = [",
        *chat,
        '    {"role": "user", "content": plain.replace("{question}", "Your question")},',
        "]",
        'inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")',
        f"output = model.generate(**inputs, max_new_tokens={config['sample']['max_tokens']}, do_sample=False)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return _fenced("\n".join(code), "python")


def _lineage(store: Store, run: str, k: int, checkpoint: Manifest, model: Manifest) -> list[str]:
    given = {ref.role: ref for ref in checkpoint.inputs}
    rationales = _needed(store, layout.iteration(run, k, "rationales"))
    given |= {ref.role: ref for ref in rationales.inputs}
    code, packages = checkpoint.code, checkpoint.packages
    dirty = ", with uncommitted changes" if code.get("dirty") else ""
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "trl") if name in packages)
    rows = [
        ("this checkpoint", checkpoint.artifact, checkpoint.digest),
        *(
            (what, given[role].artifact, given[role].digest)
            for what, role in (
                ("trained on the rationales", "rationales"),
                ("which are of the attempts", "attempts"),
                ("starting from", "start"),
            )
            if role in given
        ),
        ("base model", base_name(model), model.digest),
    ]
    return [
        "| what | artifact | digest |",
        "| --- | --- | --- |",
        *(f"| {what} | {md(artifact)} | `{digest}` |" for what, artifact, digest in rows),
        "",
        f"Made by fem {md(str(code.get('version')))}, commit {md(str(code.get('commit') or 'unknown'))}{dirty}"
        f"{f', with {md(versions)}' if versions else ''}, finished {md(checkpoint.finished)}.",
    ]


def _row(row: tuple[str, ...]) -> str:
    return "| " + " | ".join(md(cell) for cell in row) + " |"


def _fenced(text: str, language: str = "") -> list[str]:
    """A code block whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}{language or 'text'}", printable(text, "\n\t"), fence]
