"""Takes pictures of the browser's main pages: ``python -m deployments.browse_pictures STORE RUN FOLDER``.

Writes ``browse-run.png``, ``browse-attempts.png`` and ``browse-problem.png`` (dark, on a narrow screen) of a run.
"""

import socket
import sys
import tempfile
import threading
from pathlib import Path

import uvicorn

from deployments.chromium import launched
from fem_core.browse.app import application
from fem_core.browse.filters import Filter
from fem_core.browse.library import Library


def main() -> None:
    """Serve the store, open its pages, take the pictures."""
    store, run, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache, socket.socket() as listening:
        library = Library(store, Path(cache))
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application(library), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            _take(f"http://127.0.0.1:{listening.getsockname()[1]}", library, run, folder)
        finally:
            server.should_exit = True
            thread.join()
            library.close()


def _take(home: str, library: Library, run: str, folder: Path) -> None:
    last = max(row.iteration for row in library.run(run).summary.rows if row.drawn)
    problem = _learnt(library, run, last)
    wide, narrow = {"width": 1280, "height": 1000}, {"width": 400, "height": 860}
    with launched() as browser:
        for name, address, size, scheme in (
            ("run", f"/runs/{run}", wide, "light"),
            ("attempts", f"/runs/{run}/iterations/{last}/attempts", wide, "light"),
            ("problem", f"/runs/{run}/problems/{problem}", narrow, "dark"),
        ):
            context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(home + address)
            page.locator("article details").first.evaluate_all("all => all.forEach(one => { one.open = true })")
            page.screenshot(path=str(folder / f"browse-{name}.png"))
            context.close()


def _learnt(library: Library, run: str, last: int) -> str:
    """Id of a problem whose draws were kept in the last iteration and, where there is one, not in the first."""
    kept = [row.problem_id for row in library.attempts(run, last, Filter(verdict="accepted"), size=100).rows]
    first = library.attempts(run, 1, Filter(verdict="wrong_answer"), size=100).rows
    return next((row.problem_id for row in first if row.problem_id in kept), kept[0])


if __name__ == "__main__":
    main()
