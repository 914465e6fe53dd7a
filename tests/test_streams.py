"""stdout and stderr of every kind: closed, full, without the characters, and names that would drive a terminal."""

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from made import on_terminal, write_images, write_table
from rich.table import Table

from dltrain.errors import in_one_line
from dltrain.system.console import Console
from dltrain.system.log import log_to, printable
from dltrain.system.process import process_restored
from tests.test_cli import SHORT


def run(cwd: Path, redirection: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, "-m", "dltrain", *arguments]
    variables = [f"{name}={value}" for name, value in environment.items()]
    return subprocess.run(["env", *variables, *command], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "2>/dev/full", "2>&-", "<&- >&- 2>&-"])
def test_no_stream_costs_a_run(tmp_path, redirection):
    ended = run(tmp_path, redirection, *SHORT, "report=false", "hydra.run.dir=run")
    assert ended.returncode == 0 and "Traceback" not in ended.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "done"
    if redirection.startswith("2"):
        assert json.loads(ended.stdout)["status"] == "done"
    if redirection == ">/dev/full":
        assert ended.stderr.endswith("dltrain: stdout cannot be written: [Errno 28] No space left on device\n")


def test_an_answer_that_cannot_be_written_is_an_error(tmp_path):
    ended = run(tmp_path, ">/dev/full", "list", "optim")
    assert ended.returncode == 1
    assert ended.stderr == "dltrain: stdout cannot be written: [Errno 28] No space left on device\n"


def test_an_ascii_terminal_gets_ascii(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code, text = on_terminal(tmp_path, *SHORT, "report=false", term="dumb")
    assert code == 0 and text.isascii()
    assert "image 1x8x8" in text and "loss v" in text and "accuracy ^" in text


def test_a_name_does_not_drive_the_terminal(dltrain, verb, tmp_path, capsys):
    assert printable("a\x1b[31mb\rc\x9bd\te\nf") == "a\\x1b[31mb\\x0dc\\x9bd\te\nf"
    refused = verb("evaluate", "\x1b]0;title\x07")
    assert refused.code == 2 and "\x1b" not in refused.stderr and "\\x1b]0;title\\x07" in refused.stderr
    run_folder = dltrain(*SHORT).result["run"]
    (tmp_path / "a\x1b[2Jb.png").write_bytes(b"no image")
    refused = verb("predict", run_folder, "a\x1b[2Jb.png")
    assert refused.code == 2 and "\x1b" not in refused.stderr
    write_images(tmp_path / "photos")
    (tmp_path / "photos" / "train" / "dark" / "a\ndltrain: b.png").write_bytes(b"no image")
    for refused in (
        verb("predict", run_folder, "photos"),
        verb("predict", run_folder, "photos/train/dark/a\ndltrain: b.png"),
        dltrain("dataset=image_folder", "dataset.root=photos"),
    ):
        assert refused.code != 0 and "/a\\ndltrain: b.png" in refused.stderr
    with process_restored():
        log_to(None)
        logging.getLogger("dltrain").warning("a\x1b[2Jb")
    assert capsys.readouterr().err == "warning: a\\x1b[2Jb\n"


def test_no_table_or_line_shows_a_name_that_drives_the_terminal():
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    table = Table(title="t\x1b[2J")
    table.add_column("c\x1b]0;x\x07")
    table.add_row(in_one_line("[/red]\x1b[31m\nrow"))
    console.print(table)
    console.print("\x9b1m", markup=False)
    text = shown.getvalue()
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert "[/red]\\x1b[31m\\nrow" in text and "t\\x1b[2J" in text and "c\\x1b]0;x\\x07" in text and "\\x9b1m" in text


def test_names_with_escapes_and_markup_are_shown_as_they_are_written(tmp_path):
    write_table(tmp_path / "t.csv", kinds=("up\x1b]0;title\x07", "[/down]"))
    words = ("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "+dataset.name='a[/b]'", "trainer.epochs=1")
    for arguments in ((*words, "report=false", "hydra.run.dir=run"), ("evaluate", "run"), ("predict", "run", "t.csv")):
        code, text = on_terminal(tmp_path, *arguments)
        assert code == 0, text
        assert "\x1b]0" not in text and "\x07" not in text
