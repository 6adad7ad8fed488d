"""What S3 has beyond a plain filesystem: removal of many objects in one request, and uploads that nobody finished.

Contract: paths are ``bucket/key``, as s3fs writes them. An upload in parts that a crash ends is no object, yet its parts
are kept and paid for until somebody aborts it. s3fs lists only the first thousand of a whole bucket, whatever their
prefix and age, so the pages are asked for here.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

_REQUEST = 1000
"""Objects that one request may remove."""


class Upload(NamedTuple):
    """An upload in parts that is not finished."""

    path: str
    """Of the object that it would make."""
    id: str
    """The server's name for it."""
    bytes: int
    """Of its first thousand parts."""
    started: float
    """Seconds since 1970."""


def remove(filesystem: Any, paths: Sequence[str]) -> None:
    """Remove objects, a thousand per request. One that is gone already is no error.

    Raises:
        OSError: the server kept one; the message says which and why.
    """
    for start in range(0, len(paths), _REQUEST):
        split = [filesystem.split_path(path) for path in paths[start : start + _REQUEST]]
        keys = {"Objects": [{"Key": key} for _, key, _ in split], "Quiet": True}
        answer = filesystem.call_s3("delete_objects", Bucket=split[0][0], Delete=keys)
        for error in answer.get("Errors", []):
            if error.get("Code") != "NoSuchKey":
                raise OSError(f"{error.get('Key')} was not removed: {error.get('Code')}")


def uploads(filesystem: Any, folder: str) -> list[Upload]:
    """The unfinished uploads of objects below a folder."""
    bucket, prefix, _ = filesystem.split_path(f"{folder}/x")
    prefix = prefix[:-1]
    return [
        Upload(f"{bucket}/{one['Key']}", one["UploadId"], _bytes(filesystem, bucket, one), _seconds(one["Initiated"]))
        for page in _pages(filesystem, bucket, prefix)
        for one in page
        if one["Key"].startswith(prefix)
    ]


def abort(filesystem: Any, path: str, upload: str) -> None:
    """Give an upload up: its parts are removed. One that is finished or gone already is no error."""
    bucket, key, _ = filesystem.split_path(path)
    try:
        filesystem.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)
    except FileNotFoundError:
        return


def _pages(filesystem: Any, bucket: str, prefix: str) -> Iterator[list[dict[str, Any]]]:
    after: dict[str, str] = {}
    while True:
        page = filesystem.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **after)
        yield page.get("Uploads", [])
        if not page.get("IsTruncated"):
            return
        after = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _bytes(filesystem: Any, bucket: str, upload: dict[str, Any]) -> int:
    try:
        found = filesystem.call_s3("list_parts", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    except FileNotFoundError:  # it was finished or given up meanwhile
        return 0
    return sum(int(part["Size"]) for part in found.get("Parts", []))


def _seconds(time: datetime) -> float:
    return time.timestamp()
