"""Takes the pictures of README and docs from the demo: its pages in a browser, and what `make demo` prints.

`make screenshots` runs it, and writes docs/pictures/. It needs a Chromium (`apt-get install chromium`).
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PORT, STRIPE_PORT = 3917, 3918
DESKTOP, PHONE = {"width": 1200, "height": 700}, {"width": 390, "height": 780}
COLUMNS = 112


def main() -> None:
    """Bill the demo in a folder of its own, serve it, and take all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        demo = [sys.executable, "-m", "spell_billing.demo", "--stripe-port", str(STRIPE_PORT)]
        environment = {**os.environ, "COLUMNS": str(COLUMNS)}
        printed = subprocess.run(demo, cwd=place, env=environment, capture_output=True, text=True, check=True)
        _draw_terminal(printed.stdout.replace(f"{place}/", ""))
        with _served([*demo, "--dev", "--port", str(PORT)], place) as said, sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            _take(browser, said, (place / ".demo" / "admin-secret").read_text())
            browser.close()


def _draw_terminal(printed: str) -> None:
    console = Console(record=True, width=COLUMNS, file=StringIO())
    console.print(Text("$ make demo", style="bold"))
    console.print(Text(printed.rstrip()))
    svg = console.export_svg(title="make demo", theme=MONOKAI, unique_id="demo")
    # It names no address, of a font or otherwise: a picture in a README loads nothing.
    svg = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    (PICTURES / "demo.svg").write_text(svg, encoding="utf-8")


@contextmanager
def _served(command: list[str], place: Path) -> Iterator[str]:
    server = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said = ""
        for line in server.stdout or ():
            said += line
            if "Ctrl-C" in line:
                break
        yield said
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait()


def _take(browser: Browser, said: str, secret: str) -> None:
    month = re.findall(r"explain --month (\d{4}-\d\d)", said)[0]
    user_page = re.findall(r"http://\S+/u/\S+", said)[0]
    pages = {
        "overview": "/billing",
        "month": f"/billing/{month}",
        "user": user_page,
        "stripe": f"http://127.0.0.1:{STRIPE_PORT}/",
    }
    for suffix, viewport, scheme in (
        ("", DESKTOP, "light"),
        ("-dark", DESKTOP, "dark"),
        ("-phone", PHONE, "light"),
    ):
        context = browser.new_context(
            base_url=f"http://127.0.0.1:{PORT}",
            viewport=viewport,
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        page = context.new_page()
        page.goto("/login?next=/billing")
        page.get_by_label("Admin secret").fill(secret)
        page.get_by_role("button", name="Sign in").click()
        for name, address in pages.items():
            if suffix and name == "stripe":
                continue
            page.goto(address)
            page.screenshot(path=PICTURES / f"{name}{suffix}.png")
        context.close()


if __name__ == "__main__":
    main()
