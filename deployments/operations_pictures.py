"""Takes the pictures of docs/operations.md from an installation that ``make up`` has started, and does a first day in it.

``python -m deployments.operations_pictures FOLDER OUT`` goes through the Prefect UI as a person does: it starts a small run
of the deployment ``fem/demo`` in the form, has it wait for approval, resumes it, kills its process and presses Retry. The
pictures lie in the folder OUT as ``operations-….png``. With ``--run NAME`` it takes one of that flow run's page, as
``NAME-prefect.png``, and does nothing else. Needs what ``deployments.chromium`` needs.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from deployments.chromium import launched
from deployments.prefect_ui import PrefectUI
from deployments.up import Installation, read_environment

SIZE = {"width": 1280, "height": 760}
SETTLE = 6000
"""Milliseconds for what a page moves into its place."""
SMALL = {"Iterations": "2", "Train": "32", "Test": "24", "pause_after": "1"}
"""What the form changes of ``configs/demo.yaml``."""
WAIT = 1800.0
"""Seconds that a run may take to its next state."""


class Day:
    """A browser on an installation, and where its pictures go."""

    def __init__(self, ui: PrefectUI, installation: Installation, out: Path) -> None:
        self.ui, self.installation, self.out = ui, installation, out

    def picture(self, name: str) -> None:
        """Of what is seen now, in as many colours as a palette holds."""
        self.ui.page.wait_for_timeout(SETTLE)
        with Image.open(io.BytesIO(self.ui.page.screenshot())) as seen:
            seen.convert("RGB").quantize(256).save(self.out / f"{name}.png", optimize=True)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The server's API."""
        url = f"{self.ui.home}/api{path}"
        request = self.ui.page.request
        return (request.get(url) if body is None else request.post(url, data=body)).json()

    def until(self, run: str, *names: str) -> None:
        """Wait until a flow run is in one of these states; leaves where it has ended in another."""
        deadline = time.monotonic() + WAIT
        while (state := self.ask(f"/flow_runs/{run}")["state"])["name"] not in names:
            if state["type"] in ("FAILED", "CRASHED", "CANCELLED", "COMPLETED") or time.monotonic() > deadline:
                sys.exit(f"The flow run is {state['name']}, not {' or '.join(names)}: {state['message']}")
            time.sleep(2)

    def form(self) -> str:
        """Open the form, have it refuse a value, and start the run; its id."""
        ui = self.ui
        ui.page.goto(f"{ui.home}/deployments")
        ui.page.get_by_text("nightly").or_(ui.page.get_by_text("demo")).first.wait_for()
        self.picture("operations-deployments")
        ui.run_form(self.ask("/deployments/name/fem/demo")["id"])
        ui.write("Iterations", "-1")
        ui.submit()
        ui.page.get_by_text("Validation failed").first.wait_for()
        ui.field("Iterations").evaluate("one => one.scrollIntoView({block: 'center'})")
        self.picture("operations-form")
        for name, value in SMALL.items():
            ui.write(name, value)
        answer = ui.submit()
        if not answer.ok:
            sys.exit(f"The form was refused: {answer.text()}")
        return str(answer.json()["id"])

    def approve(self, run: str) -> None:
        """Look at a run that waits, and resume it."""
        self.ui.flow_run(run)
        self.picture("operations-run")
        key = f"fem-{self.ask(f'/flow_runs/{run}')['name']}"
        for name, artifact in (("summary", key), ("draws", f"{key}-draws-1")):
            self.ui.flow_run(run, "Artifacts")
            self.ui.artifact(artifact)
            self.picture(f"operations-{name}")
        self.ui.flow_run(run)
        self.ui.ask_resume()
        self.picture("operations-resume")
        answer = self.ui.resume("they read well")
        if not answer.ok or answer.json()["status"] != "ACCEPT":
            sys.exit(f"Resume was refused: {answer.text()}")

    def crash(self, run: str) -> None:
        """Kill the flow's process while it draws, and press Retry."""
        self._until(lambda: self._begun(run, "sample · 2"), "the draws of iteration 2")
        worker = self.installation.process("worker")
        for flow in worker.children() if worker else []:
            flow.kill()
        self.until(run, "Crashed")
        self.ui.flow_run(run)
        self.picture("operations-crashed")
        time.sleep(10)  # while the worker still reports the end of the process, it undoes a retry
        self.ui.retry()

    def _begun(self, run: str, task: str) -> bool:
        asks = {"flow_runs": {"id": {"any_": [run]}}, "task_runs": {"name": {"any_": [task]}}}
        return any(one["state_name"] == "Running" for one in self.ask("/task_runs/filter", asks))

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT
        while not condition():
            if time.monotonic() > deadline:
                sys.exit(f"Waited {WAIT:.0f} s for {what}.")
            time.sleep(1)

    def newest(self, name: str) -> str:
        """Id of the newest flow run with this name."""
        asks = {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC", "limit": 1}
        found = self.ask("/flow_runs/filter", asks)
        if not found:
            sys.exit(f"There is no flow run {name!r} on {self.ui.home}.")
        return str(found[0]["id"])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the installation")
    parser.add_argument("out", type=Path, help="where the pictures go")
    parser.add_argument("--run", help="take one picture of this flow run's page and nothing else")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    api = urlsplit(read_environment(arguments.folder / "env")["PREFECT_API_URL"])
    with launched() as browser:
        ui = PrefectUI(browser.new_page(viewport=SIZE), f"{api.scheme}://{api.netloc}")  # type: ignore[arg-type]
        day = Day(ui, Installation(arguments.folder), arguments.out)
        if arguments.run:
            ui.flow_run(day.newest(arguments.run))
            day.picture(f"{arguments.run}-prefect")
            return
        run = day.form()
        day.until(run, "Suspended")
        day.approve(run)
        day.crash(run)
        day.until(run, "Completed")
        ui.flow_run(run)
        day.picture("operations-retried")


if __name__ == "__main__":
    main()
