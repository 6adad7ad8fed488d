"""New weights inside vLLM's worker: a checkpoint is read into the running model, and the LM head is read back.

Contract: runs in whichever process holds the model, which finds the class by its name. Imports vllm only there.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_HEAD = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"
_HEAD_COLUMNS = 16


def with_tied_head(weights: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """A checkpoint's weights, with the embedding once more as LM head where the file leaves that out.

    A file of a model with tied embeddings names the matrix once. vLLM's reload writes it into the embedding; on CPU the
    head computes with a packed copy, which nobody renews, and nothing is raised.
    """
    embedding, has_head = None, False
    for name, tensor in weights:
        has_head = has_head or name == _HEAD
        if name == _EMBEDDING:
            embedding = tensor
        yield name, tensor
    if not has_head and embedding is not None:
        yield _HEAD, embedding


class CheckpointLoader:
    """Mixed into vLLM's worker by name (``worker_extension_cls``), so it runs in whichever process holds the model."""

    model_runner: Any
    vllm_config: Any
    reload_weights: Callable[..., None]

    def load_checkpoint(self, folder: str) -> bool:
        """Read a folder's weights into the model.

        Returns:
            Whether the LM head now computes with this folder's matrix (True where the model has no head of its own).
        """
        from vllm.model_executor.model_loader import get_model_loader

        model = self.model_runner.get_model()
        model_config = copy.copy(self.vllm_config.model_config)
        model_config.model, model_config.revision = folder, None
        read: dict[str, Any] = {}

        def keep(weights: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
            for name, tensor in weights:
                if name in (_HEAD, _EMBEDDING):
                    read[name] = tensor
                yield name, tensor

        weights = keep(get_model_loader(self.vllm_config.load_config).get_all_weights(model_config, model))
        has_head = _HEAD in dict(model.named_parameters(remove_duplicate=False))
        self.reload_weights(weights_iterator=with_tied_head(weights) if has_head else weights)
        matrix = read.get(_HEAD, read.get(_EMBEDDING))
        return not has_head or matrix is None or _computes_with(model.lm_head, matrix)


def _computes_with(head: Any, matrix: Any) -> bool:
    """Whether a vLLM head (this worker's rows of it) multiplies by a matrix of shape (vocabulary, hidden).

    Unit vectors go through the multiplication that draws use and come back as columns: exact, whatever the dtype.
    """
    import torch

    rows = slice(head.shard_indices.org_vocab_start_index, head.shard_indices.org_vocab_end_index)
    columns = torch.linspace(0, matrix.shape[1] - 1, _HEAD_COLUMNS).round().long()
    units = torch.zeros(len(columns), matrix.shape[1], dtype=head.weight.dtype, device=head.weight.device)
    units[torch.arange(len(columns)), columns] = 1
    with torch.inference_mode():
        found = head.quant_method.apply(head, units)[:, : rows.stop - rows.start]
    expected = matrix[rows][:, columns.to(matrix.device)].T.to(found)
    return bool(torch.equal(found, expected))
