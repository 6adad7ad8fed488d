"""The browser's pages in a real Chromium: keys, the content security policy, accessibility, narrow and wide, light and dark."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from hostile_run import MARK, TEXTS, make_hostile_run
from made_run import make_run
from playwright.sync_api import Browser, Page

from deployments.chromium import CHROMIUM, launched
from fem_core.browse.alone import report
from fem_core.browse.app import application
from fem_core.browse.library import Library
from fem_core.store.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason=f"there is no {CHROMIUM}: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("browser")
    store = Store.open(str(folder / "store"))
    make_run(store)
    make_hostile_run(store)
    found = Library(store.url, folder / "cache")
    yield found
    found.close()


@contextmanager
def served(library: Library, token: str | None = None) -> Iterator[str]:
    """A server's address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application(library, token), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def home(library: Library) -> Iterator[str]:
    with served(library) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def opened(chromium: Browser, home: str, width: int = 1440, scheme: str = "light") -> tuple[Page, list[str]]:
    """A page, and what its console says: a broken policy above all."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, base_url=home)  # type: ignore[arg-type]
    page, said = context.new_page(), list[str]()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    return page, said


def places(library: Library) -> list[str]:
    row = library.attempts("made", 1).rows[1]
    return [
        "/runs",
        "/runs/made",
        "/runs/made/iterations/1/attempts?text=numbers&min_length=1",
        f"/runs/made/iterations/1/attempts/{row.problem_id}/1",
        f"/runs/made/problems/{row.problem_id}",
        "/artifacts/made@1/attempts",
        "/compare?run=made&run=hostile",
        "/runs/nowhere",
        "/sign-in",
    ]


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (360, "dark")])
def test_pages_are_accessible_fit_the_screen_and_keep_to_their_policy(
    chromium: Browser, home: str, library: Library, width: int, scheme: str
) -> None:
    page, said = opened(chromium, home, width, scheme)
    for place in places(library):
        page.goto(place)
        for details in page.locator("details").all():
            details.evaluate("one => { one.open = true }")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, f"{place} is {wide} pixels too wide at {width}"
        found = Axe().run(page)
        assert found.violations_count == 0, f"{place}: {found.generate_report()}"
    assert [one for one in said if "404 (Not Found)" not in one] == [], "but for the page that is not there"
    page.context.close()


def test_a_reader_needs_no_mouse(chromium: Browser, home: str, library: Library) -> None:
    page, said = opened(chromium, home)
    page.goto("/runs/made/iterations/1/attempts")
    names = page.locator("[data-item]").evaluate_all("all => all.map(one => one.id)")
    focused = "document.activeElement.id"
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate(focused) == names[1]
    page.keyboard.press("k")
    assert page.evaluate(focused) == names[0]
    page.keyboard.press("Enter")
    page.wait_for_url("**/attempts/*/0")
    page.go_back()
    page.keyboard.press("?")
    assert page.locator("dialog#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog#keys").is_visible()
    page.keyboard.press("/")
    page.keyboard.type("gives j")
    assert page.evaluate("document.activeElement.value") == "gives j", "keys are letters while somebody types"
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=gives*")
    assert page.locator("mark").first.inner_text() == "gives"
    page.goto("/runs")
    page.get_by_label("Compare made").check()
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.matches('[data-item]')"), "a box that is ticked takes no letters"
    page.goto("/runs")
    for _ in range(40):  # the way of the Tab key to the first run
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "made":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/made")
    assert said == []
    page.context.close()


def test_the_keys_of_the_page_turn_pages(chromium: Browser, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fem_core.browse.routes_attempts.SIZE", 5)
    page, said = opened(chromium, home)
    page.goto("/runs/made/iterations/1/attempts?verdict=accepted&sort=-position")
    first = page.locator("article").first.get_attribute("id")
    page.keyboard.press("p")
    page.keyboard.press("n")
    page.wait_for_url("**page=2*")
    assert "verdict=accepted" in page.url and "sort=-position" in page.url, "the filter stays"
    assert page.locator("article").first.get_attribute("id") != first and page.locator("a[rel=next]").count() == 0
    page.keyboard.press("?")
    page.keyboard.press("p")
    assert "page=2" in page.url and page.locator("dialog#keys").is_visible(), (
        "nothing is turned behind the list of keys"
    )
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    page.wait_for_url("**page=1*")
    assert page.locator("article").first.get_attribute("id") == first and said == []
    page.context.close()


def test_a_report_is_read_from_a_disk_without_a_network(chromium: Browser, library: Library, tmp_path: Path) -> None:
    context = chromium.new_context(offline=True, viewport={"width": 360, "height": 900})
    page, said, asked = context.new_page(), list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    for run in ("hostile", "made"):
        file = tmp_path / f"a report of {run}.html"
        file.write_text(report(library, run, 10), encoding="utf-8")
        page.goto(file.as_uri())
        assert page.title() == f"{run} · FEM" and page.locator("article").count() >= len(TEXTS)
        assert page.evaluate("getComputedStyle(document.body).margin") == "0px", "its style sheet is let in"
        for details in page.locator("details").all():
            details.evaluate("one => { one.open = true }")
        page.locator("a[href='#iteration-1']").first.click()
        assert page.url == f"{file.as_uri()}#iteration-1"
        assert page.locator("script, iframe, img, form, article b1").count() == 0
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, f"the report of {run} is {wide} pixels too wide"
        found = Axe().run(page)
        assert found.violations_count == 0, f"{run}: {found.generate_report()}"
    assert {url.partition("#")[0] for url in asked} == {file.as_uri() for file in tmp_path.iterdir()}
    assert said == [], "nothing even tried"
    context.close()


def test_hostile_texts_do_nothing_in_a_browser(chromium: Browser, home: str, library: Library) -> None:
    page, said = opened(chromium, home)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    problem = library.attempts("hostile", 1).rows[0].problem_id
    place = "/runs/hostile/iterations/1/attempts"
    for address in ("/runs/hostile", place, f"{place}/{problem}/0", f"{place}/{problem}/3"):
        page.goto(address)
        assert MARK not in page.title()
        assert page.locator("iframe, img, article script").count() == 0
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, f"{address} is {wide} pixels too wide"
    page.goto(place)
    assert page.locator("article").count() == len(TEXTS), "no text ends an article"
    assert all(url.startswith(home) for url in asked)
    assert said == [], "nothing even tried"
    page.context.close()


def test_pages_work_without_javascript(chromium: Browser, home: str) -> None:
    context = chromium.new_context(java_script_enabled=False, base_url=home)
    page = context.new_page()
    page.goto("/runs")
    page.get_by_label("Compare made").check()
    page.get_by_label("Compare hostile").check()
    page.get_by_role("button", name="Compare the selected").click()
    assert page.title().startswith("Compare")
    page.goto("/runs/made")
    page.get_by_role("link", name="1: 3 wrong_answer").click()
    assert page.locator("article").count() == 3
    page.get_by_label("The text holds").fill("elephant")
    page.get_by_role("button", name="Show").click()
    assert page.get_by_text("None is like this").is_visible()
    context.close()


def test_a_reader_signs_in_and_annotates(chromium: Browser, library: Library) -> None:
    with served(library, "a token of some length") as address:
        page, said = opened(chromium, address)
        page.goto("/runs/made/iterations/2/attempts")
        assert page.title().startswith("Sign in")
        page.get_by_label("Token").fill("a token of some length")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/runs/made/iterations/2/attempts")
        first = page.locator("article").first
        first.get_by_text("Annotate").click()
        first.get_by_label("leaked").check()
        first.get_by_label("Comment").fill("<b>names the hint</b>")
        first.get_by_label("Your name").fill("A. Reader")
        first.get_by_role("button", name="Keep").click()
        page.wait_for_url("**/attempts#a-*")
        assert page.get_by_text("<b>names the hint</b>").is_visible()
        page.keyboard.press("j")
        second = page.locator("article").nth(1).get_attribute("id")
        assert page.evaluate("document.activeElement.id") == second, "and go on with the next one"
        assert [(one.iteration, one.value, one.author) for one in library.annotations("made")] == [
            (2, "leaked", "A. Reader")
        ]
        assert said == []
        page.context.close()
