"""Who may ask the browser, and what a page may load: an ASGI layer around the whole application.

Contract: every answer carries the headers below. Without a token only loopback names are answered, so that a page of
another site cannot reach the browser through a name of its own; with one, nothing but the sign-in form and the static
files is answered without it. What writes must come from a page of this very origin.
"""

import hmac
import ipaddress
import re
import secrets
from urllib.parse import quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fem_core.errors import FemError

COOKIE = "fem_browse"
"""Holds the server's own secret once the token was given; it is gone when the server ends."""

SIGN_IN = "/sign-in"
"""The form that takes the token."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Nothing inline, nothing from elsewhere, no frames; pages are kept by nobody."""

_OPEN = (SIGN_IN, "/static/")
_SHORTEST = 16
"""Characters of a token."""

_MOST_BODY = 128 * 1024
"""Bytes of a form: the longest comment has a third of that."""

_INSIDE = re.compile(r"/(?![/\\])[!-\[\]-~]{0,2000}")
"""An address of this server. Browsers take ``//`` for the beginning of another one's, also with a backslash or a tab in it."""


def is_inside(address: str) -> bool:
    """Whether an address that somebody sent is one of this server's."""
    return _INSIDE.fullmatch(address) is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_token(host: str, token: str | None) -> None:
    """Refuse a server that others could read without a token.

    Raises:
        FemError: with what to do.
    """
    if token is None and not is_loopback(host):
        raise FemError(
            f"{host} can be reached from other machines, and without a token anybody there could read the store. Put one of "
            f"at least {_SHORTEST} characters in a variable and name it with --token-env, or bind to 127.0.0.1."
        )
    if token is not None and len(token) < _SHORTEST:
        raise FemError(
            f"The token has {len(token)} characters, and one below {_SHORTEST} can be guessed. Make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe())'."
        )


class Guard:
    """The application behind its checks."""

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        """
        Args:
            token: what a reader must know; None where only this machine can ask.
        """
        self._app = app
        self._token = token
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the module."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, guarded)

    def accepts(self, token: str) -> str | None:
        """The cookie's value for who gave the right token."""
        right = self._token is not None and hmac.compare_digest(token.encode(), self._token.encode())
        return self._session if right else None

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self._token is None and not is_loopback(_name(host)):
            return PlainTextResponse(f"{host!r} is not a name of this machine's own. Open http://127.0.0.1.", 400)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not _same_origin(headers, scope["scheme"], host):
            return PlainTextResponse(
                "This was not sent from a page of this server. Open the page and send it there.", 403
            )
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not _is_small(headers):
            return PlainTextResponse(f"A form has at most {_MOST_BODY:,} bytes, and says how many.", 413)
        if self._token is None or path == _OPEN[0] or path.startswith(_OPEN[1]) or self._knows(headers):
            return None
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            asked = scope["query_string"].decode("latin-1")
            return RedirectResponse(f"{SIGN_IN}?{urlencode({'to': quote(path) + (f'?{asked}' if asked else '')})}", 303)
        return PlainTextResponse(
            "A token is needed: sign in on /sign-in, or send it as Authorization: Bearer.",
            401,
            {"WWW-Authenticate": "Bearer"},
        )

    def _knows(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.accepts(given.strip()):
            return True
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return hmac.compare_digest(cookie.encode(), self._session.encode())


def _name(host: str) -> str:
    """The host of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_small(headers: Headers) -> bool:
    """Whether a body is small, and says so: one that comes in chunks could go on for ever."""
    length = headers.get("content-length", "")
    return "transfer-encoding" not in headers and length.isdecimal() and int(length) <= _MOST_BODY


def _same_origin(headers: Headers, scheme: str, host: str) -> bool:
    """Browsers send Origin with every POST, and other sites cannot change it."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") == "same-origin"
    parts = urlsplit(origin)
    return bool(host) and parts.netloc == host and parts.scheme in (scheme, "https")
