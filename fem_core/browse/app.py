"""The browser as a web application over one store.

Contract: ``application`` gives an ASGI application that reads through a ``Library`` and never through a path of a
request. A mistake is a page with one sentence and a fitting status; what is unexpected is logged and is a 500 without
details. ``security.Guard`` is around all of it.
"""

import logging
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from fem_core.browse import routes_artifacts, routes_attempts, routes_runs
from fem_core.browse.library import Library
from fem_core.browse.links import Links
from fem_core.browse.pages import STATIC, Pages
from fem_core.browse.security import COOKIE, SIGN_IN, Guard, is_inside
from fem_core.errors import Corrupt, FemError, StoreAway
from fem_core.store.deletion import deleted_at

START = "/runs"
"""Where a reader begins."""

_log = logging.getLogger(__name__)


def application(library: Library, token: str | None = None) -> Guard:
    """The application.

    Args:
        token: what a reader must know; None where only this machine can ask.
    """
    app, pages = web(library)
    guard = Guard(app, token)
    _sign_in(app, pages, guard.accepts)
    return guard


def web(library: Library) -> tuple[FastAPI, Pages]:
    """The same without its guard, and its templates."""
    page: dict[str, Any] = {"content": {"text/html": {"schema": {"type": "string"}}}}
    told = {
        404: "Not here",
        410: "No longer here",
        422: "This cannot be asked",
        500: "The store does not hold",
        503: "The store does not answer",
    }
    app = FastAPI(
        title="FEM browse",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        responses={status: page | {"description": heading} for status, heading in told.items()},
    )
    pages = Pages(library.store.url, Links())
    for module in (routes_runs, routes_attempts, routes_artifacts):
        app.include_router(module.router(library, pages))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    def trouble(status: int, heading: str, sentence: str) -> Response:
        return HTMLResponse(pages.render("trouble.html", status=status, heading=heading, sentence=sentence), status)

    @app.exception_handler(FemError)
    def mistake(request: Request, error: FemError) -> Response:
        run = request.path_params.get("run")
        if isinstance(error, Corrupt) and run is not None and deleted_at(library.store, run) is not None:
            return trouble(
                410,
                told[410],
                f"The run {run!r} is marked deleted, and fem gc has removed data of it. Its records stay.",
            )
        status = 500 if isinstance(error, Corrupt) else 404 if request.method == "GET" else 422
        return trouble(status, told[status], str(error))

    @app.exception_handler(StoreAway)
    def away(_: Request, error: StoreAway) -> Response:
        return trouble(503, told[503], str(error))

    @app.exception_handler(RequestValidationError)
    def unclear(_: Request, error: RequestValidationError) -> Response:
        said = [f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}" for one in error.errors()]
        return trouble(422, told[422], f"{'; '.join(said)}. Go back and change it.")

    @app.exception_handler(HTTPException)
    def refused(_: Request, error: HTTPException) -> Response:
        heading = told[404 if error.status_code == 404 else 422]
        page = trouble(error.status_code, heading, f"{error.detail}. Start from the runs.")
        page.headers.update(error.headers or {})
        return page

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return trouble(500, "Something went wrong", "The server's log says what. Please report it.")

    return app, pages


def _sign_in(app: FastAPI, pages: Pages, accepts: Callable[[str], str | None]) -> None:
    @app.get(SIGN_IN, response_class=HTMLResponse)
    def ask(to: str = "") -> str:
        """The form that takes the token; ``to`` is the page that was asked for."""
        return pages.render("sign_in.html", wrong=False, to=to if is_inside(to) else START)

    @app.post(SIGN_IN)
    def sign_in(
        request: Request, token: Annotated[str, Form(max_length=500)], to: Annotated[str, Form()] = ""
    ) -> Response:
        """Takes the token, gives a cookie that the server forgets when it ends, and leads on."""
        session = accepts(token.strip())
        if session is None:
            return HTMLResponse(pages.render("sign_in.html", wrong=True, to=to if is_inside(to) else START), 403)
        answer = RedirectResponse(to if is_inside(to) else START, 303)
        # Lax: a link from a Prefect page or a letter leads to a reader who is signed in; forms of others stay without it.
        answer.set_cookie(
            COOKIE, session, httponly=True, samesite="lax", secure=request.url.scheme == "https", path="/"
        )
        return answer
