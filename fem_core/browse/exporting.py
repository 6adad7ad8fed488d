"""Record batches as the bytes of a file while they come: Parquet or JSON lines, a few batches in memory."""

import io
import json
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

MEDIA = {"parquet": "application/vnd.apache.parquet", "jsonl": "application/x-ndjson"}
"""Media types by format."""


def parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """One Parquet file, a row group for each batch."""
    sink = _Passing()
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield sink.taken()
    yield sink.taken()


def jsonl(batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """One object a line."""
    for batch in batches:
        yield "".join(f"{json.dumps(row, ensure_ascii=False, default=str)}\n" for row in batch.to_pylist()).encode()


class _Passing(io.RawIOBase):
    """What is written, until it is taken; knows how far it is, as a Parquet footer needs that."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: object) -> int:
        """Hold it."""
        piece = bytes(data)  # type: ignore[call-overload]
        self._held.append(piece)
        self._at += len(piece)
        return len(piece)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._at

    def taken(self) -> bytes:
        """What has come since the last time."""
        held, self._held = b"".join(self._held), []
        return held
