"""Code that a person copies to read exactly one artifact: its files by name, as its manifest lists them.

Contract: paths are Python literals, so nothing in a name can end them. Credentials are never in it: S3 takes them from
the environment.
"""

from fem_core.store.manifest import Manifest
from fem_core.store.reading import holder

_FEW = 4
"""Files that are named one by one; more are listed from the manifest."""


def snippets(store_url: str, manifest: Manifest) -> list[tuple[str, str]]:
    """Name of the library and code; none where the artifact holds no tables."""
    tables = [record.path for record in manifest.files if record.path.endswith(".parquet")]
    if manifest.location is not None or not tables:
        return []
    folder = f"{store_url.rstrip('/')}/{holder(manifest)}"
    remote = "://" in folder
    if len(tables) <= _FEW:
        named = f"files = {[f'{folder}/{path}' for path in tables]!r}"
        opening = ["import fsspec", ""] if remote else []
        opening += [named]
        if remote:
            opening += ["fs, _ = fsspec.url_to_fs(files[0])"]
    else:
        opening = [
            "import json",
            "",
            "import fsspec",
            "",
            f"folder = {folder!r}",
            f"fs, path = fsspec.url_to_fs({f'{store_url.rstrip(chr(47))}/{manifest.artifact}/_manifest.json'!r})",
            "manifest = json.loads(fs.cat_file(path))",
            f"assert manifest['digest'] == {manifest.digest!r}",
            "files = [f\"{folder}/{file['path']}\" for file in manifest['files'] if file['path'].endswith('.parquet')]",
        ]
    head = "\n".join(opening)
    duckdb = [
        "import duckdb",
        head,
        "database = duckdb.connect()",
        *(["database.register_filesystem(fs)"] if remote else []),
        'print(database.sql("select * from read_parquet($files)", params={"files": files}))',
    ]
    files = "[fs._strip_protocol(file) for file in files], filesystem=fs" if remote else "files"
    pyarrow = [
        "import pyarrow.dataset as ds",
        head,
        f"table = ds.dataset({files}).to_table()",
        "print(table.num_rows, table.column_names)",
    ]
    datasets = [
        "from datasets import load_dataset",
        head,
        'rows = load_dataset("parquet", data_files=files, split="train")',
        "print(rows)",
    ]
    return [
        (name, "\n".join(lines)) for name, lines in (("DuckDB", duckdb), ("pyarrow", pyarrow), ("datasets", datasets))
    ]
