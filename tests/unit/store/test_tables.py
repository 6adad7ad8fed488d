import pyarrow as pa
import pyarrow.parquet as pq

from fem_core.store import tables


def test_the_same_rows_give_the_same_bytes_however_they_are_chunked() -> None:
    table = pa.table({"text": [f"{n:06d}" * 200 for n in range(3000)]})  # several pages
    chunked = pa.concat_tables([table.slice(0, 700), table.slice(700)])
    assert tables.encode(chunked, "k") == tables.encode(table, "k")
    assert tables.encode(table, "other") != tables.encode(table, "k")


def test_the_file_says_which_step_wrote_it_and_the_table_reads_back_as_it_was(table: pa.Table) -> None:
    described = table.replace_schema_metadata({"about": "draws"})
    data = tables.encode(described, "k" * 64)
    schema = pq.read_schema(pa.BufferReader(data))
    assert schema.metadata[b"fem.step_key"] == b"k" * 64
    assert tables.decode(data).schema.equals(described.schema, check_metadata=True)


def test_an_empty_table_keeps_its_columns(table: pa.Table) -> None:
    data = tables.encode(table.slice(0, 0), "k")
    assert tables.check(data) == (0, "k")
    assert tables.decode(data).schema.equals(table.schema)
