"""The page in a browser: no errors, both schemes, a phone, and everything that scripts do.

Needs Chromium or Chrome on the path; skipped where there is none.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from softneuro_tvm.report import render
from tests.support.made_up_plans import branching, layer, plan

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr"
).split()
DARK, LIGHT = 0, 1

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser found: none of {', '.join(NAMES)} is on the path")


def browse(page: Path, action: str, width: int = 1280, height: int = 900, scheme: int = LIGHT) -> tuple[str, list[str]]:
    """Opens a page; returns what the browser prints and the console's errors."""
    done = subprocess.run(
        [
            str(BROWSER),
            *FLAGS,
            f"--user-data-dir={page.with_suffix('.profile')}",
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={scheme}",
            action,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def ask(tmp_path: Path, text: str, script: str, **window: int) -> dict[str, Any]:
    """Runs a script after the page's own; what it puts into ``found`` comes back."""
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert policy.search(text)
    asking = (
        f"const found = {{}};\ntry {{ {script} }} catch (error) {{ found.error = String(error); }}\n"
        'const box = document.createElement("pre"); box.id = "found"; box.textContent = JSON.stringify(found);'
        "document.body.append(box);"
    )
    page = tmp_path / "asked.html"
    page.write_text(policy.sub("", text).replace("</body>", f"<script>{asking}</script></body>"))
    shown, console = browse(page, "--dump-dom", **window)
    match = re.search(r'<pre id="found">(.*?)</pre>', shown, re.S)
    assert match, console
    answer: dict[str, Any] = json.loads(html.unescape(match[1]))
    assert "error" not in answer and not console
    return answer


def full_page() -> str:
    return render(branching(30, samples_s=(4e-3, 4.1e-3, 4.3e-3), tuning={"measured": 3, "seconds": 1.0}))


def test_the_console_is_silent_and_a_fault_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(full_page())
    shown, console = browse(page, "--dump-dom")
    assert not console
    assert '<html lang="en" class="js">' in shown
    page.write_text(full_page().replace("</body>", "<script>absent()</script></body>"))
    _, console = browse(page, "--dump-dom")
    assert len(console) == 1 and "Content Security Policy" in console[0]


@pytest.mark.parametrize(("scheme", "is_dark"), [(DARK, True), (LIGHT, False)])
def test_both_schemes_are_drawn(tmp_path: Path, scheme: int, is_dark: bool) -> None:
    image = pytest.importorskip("matplotlib.image", reason="matplotlib reads the screenshot")
    page = tmp_path / "report.html"
    page.write_text(full_page())
    picture = tmp_path / "picture.png"
    _, console = browse(page, f"--screenshot={picture}", scheme=scheme)
    assert not console
    pixels = image.imread(picture)[..., :3]
    assert (pixels.mean() < 0.35) == is_dark and (pixels.mean() > 0.75) != is_dark
    assert pixels.std() > 0.05  # something is drawn


def test_what_the_scripts_do(tmp_path: Path) -> None:
    found = ask(
        tmp_path,
        full_page(),
        """
        const one = (selector) => document.querySelector(selector);
        const press = (key) =>
          document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
        found.panelAtFirst = one("#panel").hidden;
        one('.lane a[data-layer="7"]').click();
        found.panel = [one("#panel").hidden, one("#panel-body h3").textContent];
        found.marked = document.querySelectorAll(".on").length;
        one("#after").click();
        found.following = one("#panel-body h3").textContent;
        press("Escape");
        found.closed = [one("#panel").hidden, document.activeElement.dataset.layer];

        one(".lane a").focus();
        found.tip = [one("#tip").hidden, one("#tip").textContent];
        press("ArrowRight");
        found.next = document.activeElement.dataset.layer;
        found.stops = document.querySelectorAll('#graph a[tabindex="0"], .lane a[tabindex="0"]').length;

        const rows = () => [...one("#table").tBodies[0].rows].filter((row) => !row.hidden);
        one("#filter").value = "pool2d/direct layer1";
        one("#filter").dispatchEvent(new Event("input"));
        found.filtered = rows().map((row) => row.cells[1].textContent);
        found.shown = one("#shown").textContent;
        one("#filter").value = "";
        one("#filter").dispatchEvent(new Event("input"));
        const heading = one("#table").tHead.rows[0].cells[5];
        heading.querySelector("button").click();
        found.rising = rows().map((row) => Number(row.cells[5].dataset.v));
        heading.querySelector("button").click();
        found.falling = [heading.getAttribute("aria-sort"), rows().map((row) => Number(row.cells[5].dataset.v))];

        const width = one("#lanes").clientWidth;
        one('[data-zoom="lanes"] [data-by="2"]').click();
        found.zoomed = Math.round(one("#lanes").clientWidth / width);
        one('[data-zoom="graph"] [data-by="fit"]').click();
        found.fits = Number(one("#graph").getAttribute("height")) <= one("#graph").parentElement.clientHeight;

        const background = () => getComputedStyle(document.body).backgroundColor;
        const before = background();
        one("#scheme").click();
        found.switched = background() !== before;
        one("#scheme").click();
        found.back = background() === before;
        """,
    )
    assert found["panelAtFirst"] is True
    assert found["panel"] == [False, "layer7"]
    assert found["marked"] >= 4  # bar, box, net and row
    assert found["following"] == "layer8"
    assert found["closed"] == [True, "7"]
    assert found["tip"][0] is False and found["tip"][1].startswith("layer0: conv2d by conv2d/direct")
    assert found["next"] == "1"
    assert found["stops"] == 3  # one for each group
    assert found["filtered"] == ["layer1", "layer13", "layer17"]
    assert found["shown"] == "3 of 32"
    assert found["rising"] == sorted(found["rising"])
    assert found["falling"] == ["descending", sorted(found["rising"], reverse=True)]
    assert found["zoomed"] == 2
    assert found["fits"] and found["switched"] and found["back"]


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_as_wide_as_its_window(tmp_path: Path, width: int) -> None:
    """In a frame, because windows have a least width."""
    wide = plan(tuple(layer(f"a_name_without_spaces_{'x' * 90}{i}", i, "x") for i in range(4)))
    for text in (full_page(), render(wide)):
        page = tmp_path / "frame.html"
        page.write_text(
            f'<!doctype html><iframe style="width:{width}px;border:0" srcdoc="{html.escape(text)}"></iframe>'
            "<script>onload = () => { const inner = document.querySelector('iframe').contentWindow;"
            "document.title = `${inner.document.documentElement.scrollWidth} of ${inner.innerWidth}`; };</script>"
        )
        shown, console = browse(page, "--dump-dom", width=1400)
        assert not console
        match = re.search(r"<title>(\d+) of (\d+)</title>", shown)
        assert match and int(match[1]) <= int(match[2]) == width


def test_names_are_not_markup(tmp_path: Path) -> None:
    name = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    found = ask(
        tmp_path,
        render(plan((layer(name, 0, "x"),), model=name)),
        'document.querySelector("a[data-layer]").click();'
        'found.seen = [document.title, document.images.length, document.querySelector("#panel h3").textContent];',
    )
    assert found["seen"] == [f"{name}: routines chosen", 0, name]
