"""Arrow tables as the bytes of parquet files that say which step wrote them.

Contract: the same table and key give the same bytes (one pyarrow version, no times inside); every page carries a
checksum, so that a damaged part is found before a manifest has recorded its digest.
"""

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from fem_core.store.manifest import FileRecord

_KEY = b"fem.step_key"


def encode(table: pa.Table, key: str) -> bytes:
    """The table as zstd parquet, with the step key in its schema metadata."""
    metadata = {**(table.schema.metadata or {}), _KEY: key.encode()}
    whole = table.combine_chunks().replace_schema_metadata(dict(sorted(metadata.items())))
    sink = pa.BufferOutputStream()
    pq.write_table(whole, sink, compression="zstd", compression_level=3, write_page_checksum=True)
    return bytes(sink.getvalue())


def decode(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in a parquet file's bytes, as it was given to ``encode``."""
    names = None if columns is None else list(columns)
    table = pq.ParquetFile(pa.BufferReader(data)).read(columns=names)
    kept = {name: value for name, value in (table.schema.metadata or {}).items() if name != _KEY}
    return table.replace_schema_metadata(kept or None)


def check(data: bytes) -> tuple[int, str | None]:
    """Rows and step key of a parquet file, after reading all of it against its page checksums.

    Raises:
        OSError, pa.ArrowInvalid: the file is torn or damaged.
    """
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        for _ in file.iter_batches():
            pass
        return footer(file)


def footer(file: pq.ParquetFile) -> tuple[int, str | None]:
    """Rows and step key of a parquet file, from its footer."""
    key = (file.schema_arrow.metadata or {}).get(_KEY)
    return file.metadata.num_rows, None if key is None else key.decode(errors="replace")


def key_of(data: bytes) -> str | None:
    """The step key of a parquet file; None where it names none, or is torn, which ``check`` tells whoever uses it."""
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            return footer(file)[1]
    except (OSError, pa.ArrowException):
        return None


def count_rows(data: bytes) -> int:
    """Rows of a parquet file, from its footer."""
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        return int(file.metadata.num_rows)


def record_of(name: str, table: pa.Table, key: str) -> FileRecord:
    """What ``Store.write_table`` would record, without writing."""
    data = encode(table, key)
    return FileRecord(path=name, bytes=len(data), rows=table.num_rows, sha256=hashlib.sha256(data).hexdigest())
