"""``fem export``: a checkpoint as an ordinary model folder with a card."""

from typing import TYPE_CHECKING

from flows.commands.options import DEFAULT_STORE, StoreUrl

if TYPE_CHECKING:
    from fem_core.store.manifest import Manifest


def export(checkpoint: str, to: str, *, store: StoreUrl = None) -> None:
    """Write a checkpoint as a Hugging Face model folder with a model card.

    Parameters
    ----------
    checkpoint
        Run and iteration, such as demo@3.
    to
        New folder, or URL such as s3://bucket/models/demo-3.
    store
        Folder or URL of the store; ./fem-store by default.
    """
    from rich.console import Console
    from rich.filesize import decimal

    from fem_core.errors import FemError
    from fem_core.report import export as exporting
    from fem_core.store.store import Store
    from flows.terminal import follower

    run, _, iteration = checkpoint.rpartition("@")
    if not run or not iteration.isdecimal():
        raise FemError(f"{checkpoint!r} names no checkpoint. Write run and iteration as RUN@K, such as demo@3.")
    opened, k = Store.open(store or DEFAULT_STORE, check=False), int(iteration)
    manifest: Manifest = exporting.checkpoint_of(opened, run, k)
    total, step, done = sum(record.bytes for record in manifest.files), f"export {run}@{k}", 0
    with follower(Console()) as listener:
        listener.began(step, total, f"bytes to {to}")

        def hear(more: int, file: str) -> None:
            nonlocal done
            done += more
            listener.moved(step, done, total, file)

        exporting.export(opened, run, k, to, hear)
        listener.ended(step, f"{len(manifest.files) + 2} files, {decimal(total)}, checkpoint {manifest.digest[:12]}")
