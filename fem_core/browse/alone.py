"""``fem report``: a run as one HTML file that needs nothing else, for those who cannot reach the store.

Contract: the run's page and the first attempts of each iteration, with the style sheet inside and no script. The file
says itself, by a content security policy, that it loads nothing.
"""

import base64
import hashlib

from markupsafe import Markup

from fem_core.browse.library import Library
from fem_core.browse.links import NoLinks
from fem_core.browse.pages import STATIC, Pages
from fem_core.browse.routes_attempts import prompts_of
from fem_core.browse.routes_runs import run_values


def report(library: Library, run: str, attempts: int) -> str:
    """The file's text.

    Args:
        attempts: how many of each iteration to show; 0 for none.

    Raises:
        FemError: there is no such run, or a file does not hold.
    """
    page = library.run(run)
    drawn = [row.iteration for row in page.summary.rows if row.drawn] if attempts else []
    pages = Pages(library.store.url, NoLinks(drawn))
    values = run_values(library, run, pages.links)
    samples = [(k, library.attempts(run, k, size=attempts)) for k in drawn]
    style = (STATIC / "browse.css").read_text(encoding="utf-8")
    sha = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    prompts = prompts_of(page.record.config, tuple(row for _, found in samples for row in found.rows))
    return pages.render("alone.html", style=Markup(style), sha=sha, samples=samples, prompts=prompts, **values)
