"""The root that a URL names."""

from pathlib import Path

from fsspec.core import url_to_fs

from fem_core.errors import FemError
from fem_core.store import access
from fem_core.store.local import LocalRoot
from fem_core.store.manifest import safe_url
from fem_core.store.remote import RemoteRoot


def open_root(url: str) -> LocalRoot | RemoteRoot:
    """The root at a local path (``~`` is understood) or fsspec URL. Touches nothing yet.

    Raises:
        FemError: the URL cannot be used; the message never shows credentials.
    """
    if "://" not in url:
        return LocalRoot(Path(url).expanduser().absolute())
    scheme, _, rest = url.partition("://")
    if scheme in ("file", "local"):
        return LocalRoot(Path(rest).expanduser().absolute())
    shown = safe_url(url)
    if scheme in ("s3", "s3a") and ("@" in rest.partition("/")[0] or "?" in rest):
        raise FemError(
            f"The store URL {shown} carries credentials or a query, which S3 URLs cannot. "
            "Give credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY and an endpoint in AWS_ENDPOINT_URL."
        )
    try:
        filesystem, base = url_to_fs(url, use_listings_cache=False, **access.options(scheme))
    except ImportError as error:
        raise FemError(
            f"The store URL {shown} needs a package that is missing. Install the one for {scheme}://."
        ) from error
    except ValueError as error:
        raise FemError(
            f"The store URL {shown} cannot be used: {type(error).__name__}. "
            "Use a folder or an fsspec URL such as s3://bucket/prefix."
        ) from error
    return RemoteRoot(filesystem, base, shown)
