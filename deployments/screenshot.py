"""Takes a picture of a run's page in the Prefect UI: ``python deployments/screenshot.py API_URL RUN OUT.png``.

Needs Playwright (``pip install playwright``) and the system's Chromium; no browser is downloaded. The server must be
running, with ``PREFECT_UI_API_URL`` set when it is not on port 4200.
"""

import json
import sys
import tempfile
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


def newest(api: str, run: str) -> str:
    """Id of the newest flow run with this name."""
    body = json.dumps({"flow_runs": {"name": {"any_": [run]}}, "sort": "START_TIME_DESC", "limit": 1}).encode()
    request = urllib.request.Request(
        f"{api}/flow_runs/filter", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = json.load(answer)
    if not found:
        sys.exit(f"there is no flow run {run!r} on {api}")
    return str(found[0]["id"])


def main() -> None:
    """Open the page, wait for its graph, take the picture."""
    api, run, out = sys.argv[1].rstrip("/"), sys.argv[2], Path(sys.argv[3])
    page_url = f"{api.removesuffix('/api')}/runs/flow-run/{newest(api, run)}"
    tab = sys.argv[4] if len(sys.argv) > 4 else None
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=ARGUMENTS, viewport={"width": 1440, "height": 1000}
        )
        page = browser.new_page()
        page.goto(page_url)
        page.wait_for_timeout(6000)
        if tab:
            page.get_by_text(tab, exact=True).first.click()
            page.wait_for_timeout(2500)
        out.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(out))
        browser.close()


if __name__ == "__main__":
    main()
