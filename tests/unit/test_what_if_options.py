"""The options that restrict `tune`: what their help teaches, and that they may be repeated."""

from __future__ import annotations

import re

import typer
from typer.testing import CliRunner

from softneuro_tvm.cli.what_if_options import Forbid, Force, Routine
from softneuro_tvm.descriptor import GRAMMAR

app = typer.Typer(rich_markup_mode="rich")


@app.command()
def tune(force: Force = None, forbid: Forbid = None, routine: Routine = None) -> None:
    """Echo what was given."""
    typer.echo(repr((force, forbid, routine)))


def test_help_shows_the_whole_grammar() -> None:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"}).output
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert GRAMMAR.replace("[/ALG", " [/ALG").replace("[@", " [@") in plain
    assert all(option in plain for option in ("--force", "--forbid", "--routine", "cpu/winograd/m=4@2..9"))


def test_options_may_be_repeated() -> None:
    given = ["--force", "cpu@a", "--force", "cpu@b", "--routine", "cpu/winograd"]
    assert CliRunner().invoke(app, given).output.strip() == "(['cpu@a', 'cpu@b'], None, ['cpu/winograd'])"
