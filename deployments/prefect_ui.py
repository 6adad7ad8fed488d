"""The pages of a Prefect server as a person uses them: a form is filled, a button pressed, a tab read. For tests and pictures.

Contract: the pages are those that the server shows by default. A press returns the server's answer to it, whatever that
is, so that nobody takes a click for what was to come of it. Where the server is busy, the page says "Oops. Something went
wrong." and nothing was done; then it is pressed again, as a person does.
"""

import re
from dataclasses import dataclass

from playwright.sync_api import Locator, Page, Response

SECONDS = 120.0
"""How long a page may take on a machine that does other things as well."""

BUSY = 503
"""What a server on SQLite answers while others write."""

_FIELD = "xpath=ancestor::div[contains(concat(' ', @class, ' '), ' schema-form-property ')][1]"
"""From a field's name to the field with its description and input."""


@dataclass(frozen=True)
class PrefectUI:
    """A page of a browser, and the server that it looks at."""

    page: Page
    home: str
    """URL without ``/api``."""

    def __post_init__(self) -> None:
        self.page.set_default_timeout(1000 * SECONDS)

    def run_form(self, deployment: str) -> None:
        """Open what *Run → Custom run* opens, by the deployment's id."""
        self.page.goto(f"{self.home}/deployments/deployment/{deployment}/run")
        self._button("Submit").wait_for()

    def field(self, name: str) -> Locator:
        """The first field of a form with this name."""
        label = self.page.locator(".schema-form-property__label")
        named = label.filter(has_text=re.compile(rf"^\s*{re.escape(name)}( \(Optional\))?\s*$"))
        return named.first.locator(_FIELD)

    def write(self, name: str, value: str) -> None:
        """Put a value into a field; into a list, as a new item."""
        field = self.field(name)
        if (add := field.get_by_role("button", name="Add item")).count():
            add.click()
        taken = field.locator("input, textarea").last
        taken.click()
        taken.fill(value)
        taken.blur()

    def submit(self) -> Response:
        """Submit the form of a run."""
        while (answer := self._press(self._button("Submit"), "/create_flow_run")).status == BUSY:
            self._button("Submit").wait_for()
        return answer

    def deployment(self, id_: str) -> None:
        """Open a deployment's page, with its schedules and runs, by its id."""
        self.page.goto(f"{self.home}/deployments/deployment/{id_}")
        self.page.get_by_text("Schedules", exact=True).first.wait_for()

    def flow_run(self, run: str, tab: str | None = None) -> None:
        """Open a flow run's page by its id, and one of its tabs by its name."""
        self.page.goto(f"{self.home}/runs/flow-run/{run}")
        self.page.get_by_text("Artifacts", exact=True).first.wait_for()
        if tab is not None:
            self.page.get_by_text(tab, exact=True).first.click()

    def artifact(self, key: str) -> None:
        """Open an artifact from the tab *Artifacts* of a flow run's page."""
        self.page.get_by_text(key, exact=True).first.click()

    def progress(self, step: str) -> str:
        """What the tab *Artifacts* of a flow run's page says of a step, such as ``train · 1``, further down."""
        told = self.page.get_by_text(re.compile(rf"^{re.escape(step)}: \d")).first
        for _ in range(int(2 * SECONDS)):
            if told.is_visible():
                break
            self.page.mouse.wheel(0, 1000)
            self.page.wait_for_timeout(500)
        return told.inner_text()  # raises where it never came

    def resume(self, note: str) -> Response:
        """Fill the form of Resume and submit it."""
        while True:
            self.ask_resume()
            self.write("Note", note)
            answer = self._press(self._button("Submit"), "/resume")
            if answer.status != BUSY:
                return answer
            self.page.reload()

    def ask_resume(self) -> None:
        """Press Resume of a flow run that waits for a person, which opens a form, where it is not open."""
        if not self.field("Note").is_visible():
            self._button("Resume").click()
        self.field("Note").wait_for()

    def retry(self) -> Response:
        """Press Retry of a flow run that has ended."""
        return self._change("Retry", confirm="Retry")

    def cancel(self) -> Response:
        """Press Cancel of a flow run that has not ended."""
        return self._change("Cancel", confirm="Confirm")

    def _change(self, button: str, confirm: str) -> Response:
        """Press a button of a flow run's page that asks whether it is meant."""
        while True:
            self._button(button).click()
            answer = self._press(self.page.get_by_role("dialog").get_by_role("button", name=confirm), "/set_state")
            if answer.status != BUSY:
                return answer
            self.page.reload()

    def _button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True).last

    def _press(self, button: Locator, path: str) -> Response:
        with self.page.expect_response(lambda one: one.request.method == "POST" and one.url.endswith(path)) as answer:
            button.click()
        return answer.value
