"""The page: well-formed, complete, harmless, readable."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from softneuro_tvm.errors import BuildError
from softneuro_tvm.report import charts, render, write_report
from softneuro_tvm.report.numbers import Times, quantity, shortened
from tests.support.made_up_plans import branching, layer, plan

VOID = {"meta", "input", "wbr", "br", "link", "img"}
HOSTILE = '</title><script>alert("1")</script><img src=x onerror=alert(2)>\'"&'
MANIFEST = {
    "tvm": "0.27",
    "source": HOSTILE,
    "inputs": [{"name": HOSTILE, "shape": [1, 3], "dtype": "float32"}],
    "outputs": [{"name": "y", "shape": [1, None], "dtype": "float32"}],
    "memory": {"arena_bytes": 1_234_567},
}


class Page(HTMLParser):
    """Checks that tags are balanced; collects ids, links, scripts, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts = 0
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data


def full(count: int = 12) -> str:
    return render(
        branching(
            count,
            samples_s=(3.4e-3, 3.5e-3, 3.6e-3, 3.9e-3),
            lower_bound_s=3.0e-3,
            predicted_s=3.3e-3,
            resources={"memory_bytes": 5_000_000, "accuracy": 1e-5},
            limits={"memory_bytes": 8_000_000},
            pareto=(
                {"predicted_s": 3.3e-3, "memory_bytes": 5_000_000, "accuracy": 1e-5},
                {"predicted_s": 4.1e-3, "memory_bytes": 3_000_000, "accuracy": 1e-5},
            ),
            tuning={"measured": 41, "known": 7, "skipped": 13, "seconds": 12.5},
        ),
        MANIFEST,
    )


@pytest.mark.parametrize("count", [1, 2, 12, 90])
def test_pages_are_well_formed_and_links_lead_somewhere(count: int) -> None:
    page = Page(full(count))
    assert len(page.ids) == len(set(page.ids))
    targets = {value.removeprefix("#") for _, name, value in page.attributes if name == "href" and value}
    assert targets <= set(page.ids)
    assert {f"L{index}" for index in range(count)} <= targets


def test_everything_that_a_plan_says_is_there() -> None:
    page = Page(full())
    text = " ".join(page.text.split())
    for part in (
        "made up",
        "AMD <EPYC>",
        "znver5",
        "2 threads",
        "12 layers",
        "2 conversions",
        "3.300 ms",  # predicted
        "3.550 ms",  # measured
        "no plan is faster than 3.000 ms",
        "≤ 9.1",
        "41 measured, 7 known, 13 skipped",
        "12.5 s",
        "NCHW throughout",
        "Fastest routine of each layer",
        "cpu:float32:nchw16c/direct/rows=2",
        "cpu:float32:nchw8c/tiled/rows=7",
        "≥ 0.900",  # predicted, not measured
        "wrong: relative error 0.5",
        "5 MB",
        "8 MB",
        "62",  # percent of the limit
        "1.23 MB",  # the arena
        "4.100 ms, memory 3 MB",
        "NCHW > NCHW16c",
    ):
        assert part in text, part
    assert "second line" not in text


def test_bars_of_the_timeline_follow_one_another() -> None:
    lane = re.findall(r'<a href="#[LA]\d+" [^>]*style="left:([\d.]+)%;width:([\d.]+)%"', render(branching(40)))
    assert len(lane) == 42
    spans = sorted((float(left), float(width)) for left, width in lane)
    for (left, width), (following, _) in itertools.pairwise(spans):
        assert left + width == pytest.approx(following, abs=0.03)
    assert sum(spans[-1]) == pytest.approx(100, abs=0.03)


def test_names_from_the_model_are_text_and_nothing_else() -> None:
    hostile = (layer(HOSTILE, 0, f"x{HOSTILE}"), layer("both", 1, HOSTILE, covers=(HOSTILE, "second")))
    made = plan(
        hostile,
        model=HOSTILE,
        method=HOSTILE,
        device={"part": HOSTILE, HOSTILE: HOSTILE},
        comparison={HOSTILE: 1.0},
        tuning={HOSTILE: HOSTILE},
    )
    page = Page(render(made, MANIFEST))
    assert page.scripts == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not [tag for tag, _, _ in page.attributes if tag == "img"]
    assert HOSTILE in page.text


def test_a_page_asks_for_nothing_from_outside() -> None:
    text = full()
    values = [value or "" for _, name, value in Page(text).attributes if name in ("src", "href")]
    assert values and all(value.startswith("#") for value in values)
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text
    for match in re.findall(r"https?://[^\s\"'<]+", text):
        raise AssertionError(match)


def test_a_large_network_is_a_page_of_reasonable_size() -> None:
    assert len(render(branching(400)).encode()) < 3_000_000


def test_a_plan_without_extras_and_without_time() -> None:
    empty = Page(render(plan((), predicted_s=0.0, lower_bound_s=0.0, comparison={})))
    assert "not timed" in empty.text
    page = Page(render(branching(3)))
    assert "proved" in page.text
    assert "Trade-offs" not in page.text


def test_tuning_without_its_duration_says_how_much_was_measured() -> None:
    page = Page(
        render(branching(3, tuning={"candidates": 1500, "measured": 300, "skipped": 1200, "stopped": "proved"}))
    )
    text = " ".join(page.text.split())
    assert "300 measured" in text
    assert "1,500 candidates, 300 measured, 1,200 skipped; stopped: proved" in text


def test_a_failed_write_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="another folder"):
        write_report(branching(2), tmp_path / "absent" / "report.html")
    write_report(branching(2), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_candidates_share_an_axis() -> None:
    marks, end = charts.marks(layer("a", 0, "x"), 0.5)
    assert [mark.state for mark in marks] == ["chosen", "measured", "predicted"]
    assert [mark.is_cut for mark in marks] == [False, False, True]
    assert end == pytest.approx(4e-4)  # four times the chosen one
    assert marks[0].at == pytest.approx(25) and marks[1].at == pytest.approx(37.5)
    assert marks[1].high - marks[1].low == pytest.approx(3.75)
    assert marks[1].lost_s == pytest.approx(0.4)


@pytest.mark.parametrize("end", [1e-3, 0.7, 1.0, 8.2, 25.3, 4711.0])
def test_ticks_are_few_round_and_inside(end: float) -> None:
    found = charts.ticks(end)
    assert 2 <= len(found) <= 9
    assert found[0] == 0 and found[-1] <= end * (1 + 1e-9)
    step = f"{found[1]:.6e}"
    assert step[0] in "125" and float(step[2:8]) == 0


def test_numbers() -> None:
    times = Times.of(25e-3)
    assert [times(0.0), times(2e-7), times(25.3084e-3), times(float("inf"))] == ["0", "<0.001", "25.308", "\N{EN DASH}"]
    assert [times.more(1e-4), times.more(-1e-4), times.more(1e-9)] == ["+0.100", "\N{MINUS SIGN}0.100", "0"]
    assert Times.of(8e-6).full(8.2e-6) == "8.20 µs"
    assert [quantity("memory_bytes", 999_600), quantity("budget_s", 60.0), quantity("measured", 1200)] == [
        "1 MB",
        "60 s",
        "1,200",
    ]
    assert shortened("features.denseblock1.denselayer1.conv1", 18) == "…denselayer1.conv1"
    assert shortened("conv1", 18) == "conv1"


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme: int) -> None:
    """Text 4.5 : 1 and marks 3 : 1, as WCAG 2.2 asks at level AA."""
    style = full()
    colours = dict(re.findall(r"--(\w+): (#\w{6});", style))
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colours |= {name: (light, dark)[scheme] for name, light, dark in pairs}
    for ground in ("page", "card", "sunk"):
        for text in ("text", "dim", "link", "warn"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for mark in ("plan", "measured", *(f"k{i}" for i in range(10))):
        assert _contrast(colours[mark], colours["card"]) >= 3, mark
    for i in range(10):
        assert _contrast(colours["ink"], colours[f"k{i}"]) >= 4.5, i
