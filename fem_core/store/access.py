"""How an S3 server is reached: endpoint, addressing style and profile, as a configuration's section ``s3`` says.

Contract: the environment is the one place that everybody reads (this process, the engine host, the trainer), so the
section is put there: the endpoint under the name that the AWS tools know, addressing and profile under names of ours.
What it leaves open is as the AWS tools take it from the environment.
Secrets are never part of a configuration.
"""

import os
from typing import Any

from fem_core.config import S3Config
from fem_core.errors import FemError

ADDRESSING = "FEM_S3_ADDRESSING_STYLE"
"""``path``, ``virtual`` or ``auto``."""

PROFILE = "FEM_S3_PROFILE"
"""What a configuration has as its profile: unlike ``AWS_PROFILE`` it counts more than keys in the environment."""

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Credentials."""


def use(config: S3Config) -> None:
    """Put what the section says into the environment; what it leaves open stays as it is."""
    said = {
        "AWS_ENDPOINT_URL": config.endpoint_url,
        PROFILE: config.profile,
        ADDRESSING: config.addressing_style,
    }
    os.environ.update({name: value for name, value in said.items() if value is not None})


def use_secret(values: Any, block: str) -> None:
    """Put the credentials of a Prefect block into the environment, in place of what is there.

    Raises:
        FemError: it does not hold a mapping of AWS variables; the message shows no value.
    """
    if (
        not isinstance(values, dict)
        or not values
        or not all(name in KEYS and isinstance(values[name], str) for name in values)
    ):
        raise FemError(
            f"The Prefect block {block!r} does not hold a JSON object with {', '.join(KEYS[:2])}. Save it as a Secret "
            "block of that form."
        )
    for name in (*KEYS, PROFILE):  # a token, or a profile, that belongs to other keys
        os.environ.pop(name, None)
    os.environ.update(values)


def options(scheme: str) -> dict[str, Any]:
    """What the filesystem of a URL scheme is to be made with. fsspec keeps one instance for equal options, so what may
    change within a process is named here.

    Raises:
        FemError: the environment names an unknown addressing style.
    """
    style = os.environ.get(ADDRESSING)
    if scheme not in ("s3", "s3a"):
        return {}
    named = {"endpoint_url": os.environ.get("AWS_ENDPOINT_URL"), "profile": os.environ.get(PROFILE)}
    found: dict[str, Any] = {name: value for name, value in named.items() if value}
    if style is None:
        return found
    if style not in ("auto", "path", "virtual"):
        raise FemError(f"{ADDRESSING} is {style!r}. Set it to path, virtual or auto.")
    return {**found, "config_kwargs": {"s3": {"addressing_style": style}}}
