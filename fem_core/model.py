"""Where the base model comes from: the packaged one, a local folder or the Hugging Face hub.

Contract: what ``resolve_model`` returns is a folder that can be trained and drawn from (weights in safetensors, a chat
template, a known context length), with each file's digest; whatever is not so is refused here, before anything heavy
starts. No pickled weights are ever read. Imports no torch.
"""

import fnmatch
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fem_core.config import PACKAGED_MODEL, ModelConfig
from fem_core.digest import digest, digest_file
from fem_core.errors import FemError
from fem_core.packaged_model import packaged_model

TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.tiktoken"),
    *("chat_template*", "generation_config.json"),
)
"""What stands beside the weights and is not changed by training."""
MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES)
"""What a model folder needs; ``*.py`` too where remote code is trusted."""

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_BIG = 16 * 1024 * 1024


_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""What transformers and vLLM load; another file's name (an adapter's, say) would let them fall back to pickles."""


class ModelFile(NamedTuple):
    """One file of a model folder."""

    path: str
    """Relative to the folder, with forward slashes."""
    bytes: int
    """Its size."""
    sha256: str
    """Digest of its content, 64 hex digits."""


@dataclass(frozen=True)
class BaseModelFolder:
    """theta^(0) on this machine."""

    path: Path
    """The folder."""
    name: str
    """What the user wrote: ``packaged:…``, a folder or a hub name."""
    files: tuple[ModelFile, ...]
    """The model's files, by path."""
    context_length: int
    """Longest sequence that the model takes, tokens."""


def default_cache() -> Path:
    """``FEM_CACHE``, or ~/.cache/fem."""
    return Path(os.environ.get("FEM_CACHE", "~/.cache/fem")).expanduser()


def resolve_model(config: ModelConfig, cache: Path) -> BaseModelFolder:
    """The base model as a local folder; converted or downloaded when it is not there yet.

    Args:
        cache: where the packaged model and the digests of big files are kept.

    Raises:
        FemError: it cannot be found or reached, has no safetensors, no chat template or no context length.
    """
    folder = _locate(config, cache)
    path = str(folder)
    if not (folder / "config.json").is_file():
        raise FemError(
            f"{path!r} holds no config.json, so it is no model folder. Name the folder that save_pretrained wrote."
        )
    if not any((folder / name).is_file() for name in _WEIGHTS):
        pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
        found = f"only pickled weights ({pickles[0]}), which can run code when loaded" if pickles else "no weights"
        raise FemError(
            f"The model folder {path!r} holds {found}. Save it again with save_pretrained, which writes "
            "safetensors, or name another model."
        )
    if not _has_chat_template(folder):
        raise FemError(
            f"The model {config.source!r} has no chat template. Use an instruction-tuned model, or add a "
            "chat_template.jinja to its folder."
        )
    files = tuple(
        ModelFile(file.relative_to(folder).as_posix(), file.stat().st_size, _file_digest(file, cache))
        for file in model_files(folder, MODEL_FILES + (("*.py",) if config.trust_remote_code else ()))
    )
    return BaseModelFolder(folder, config.source, files, _context_length(folder))


def model_files(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """The folder's own files (none from below it) whose names match one of the patterns, by name."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and any(fnmatch.fnmatchcase(file.name, pattern) for pattern in patterns):
            yield file


def _locate(config: ModelConfig, cache: Path) -> Path:
    source = config.source
    if source == PACKAGED_MODEL:
        return packaged_model(cache)
    if source.startswith("packaged:"):
        raise FemError(f"There is no packaged model {source!r}. The only one is {PACKAGED_MODEL!r}.")
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.exists():
        raise FemError(
            f"model.source {source!r} is a file. Name the folder that holds config.json and the safetensors."
        )
    if folder.is_absolute() or source.startswith(".") or not _HUB_NAME.fullmatch(source):
        raise FemError(
            f"There is no model folder {source!r}. Name an existing folder, a hub model such as "
            f"'HuggingFaceTB/SmolLM2-135M-Instruct', or {PACKAGED_MODEL!r}."
        )
    return _from_hub(config)


def _from_hub(config: ModelConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"{config.source!r}" + (f" at revision {config.revision!r}" if config.revision else "")
    offline = "Check the connection and HF_HUB_OFFLINE, or download it elsewhere and name its folder in model.source."
    try:
        folder = snapshot_download(
            config.source,
            revision=config.revision,
            allow_patterns=[*MODEL_FILES, *(["*.py"] if config.trust_remote_code else [])],
            # Other formats of the same weights lie in folders; consolidated.safetensors is Mistral's second copy.
            ignore_patterns=["*/*", "consolidated*"],
        )
    except RevisionNotFoundError as error:
        raise FemError(f"The hub has no {name}. Check model.revision.") from error
    except GatedRepoError as error:
        raise FemError(
            f"The hub model {name} is gated. Accept its terms on its page and log in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FemError(
            f"There is no folder and no public hub model {name}. Check the name; for a private one log in with "
            "`hf auth login`."
        ) from error
    except (HTTPError, OSError) as error:
        raise FemError(
            f"The hub model {name} is not on this machine and the hub cannot be reached "
            f"({type(error).__name__}). {offline}"
        ) from error
    return Path(folder)


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FemError(f"{str(file)!r} is not valid JSON: {error}. Get the model again.") from error
    return data if isinstance(data, dict) else {}


def _has_chat_template(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")) or bool(
        _json(folder / "tokenizer_config.json").get("chat_template")
    )


def _context_length(folder: Path) -> int:
    config = _json(folder / "config.json")
    for section in (config, config.get("text_config"), config.get("llm_config")):
        if isinstance(section, dict):
            for key in _CONTEXT_KEYS:
                if isinstance(section.get(key), int):
                    return int(section[key])
    raise FemError(
        f"{str(folder / 'config.json')!r} does not say how long a sequence the model takes. Add "
        "max_position_embeddings."
    )


def _file_digest(file: Path, cache: Path) -> str:
    """SHA-256 of a file; that of a big one is remembered by its path, size and time of change."""
    status = file.stat()
    if status.st_size < _BIG:
        return digest_file(file)
    key = digest([str(file.resolve()), status.st_size, status.st_mtime_ns])
    known = cache / "digests" / key
    if known.is_file() and len(text := known.read_text()) == 64:
        return text
    sha256 = digest_file(file)
    known.parent.mkdir(parents=True, exist_ok=True)
    new = known.with_name(f"{key}.{os.getpid()}")
    new.write_text(sha256)
    new.replace(known)
    return sha256
