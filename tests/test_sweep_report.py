"""``dltrain report`` of a sweep: its table and page anew, what runs in truth, and what is refused."""

import shutil
from pathlib import Path

import pytest

from dltrain.errors import UserError
from dltrain.runs.folder import RunFolder, is_in_use
from dltrain.sweep.ledger import Ledger, settled
from tests.test_cli import SHORT
from tests.test_outcome import Book
from tests.test_sweep import SWEEP, ledger


def test_report_writes_the_table_anew_where_the_folder_has_gone(dltrain, verb, tmp_path):
    assert dltrain("-m", *SHORT, "seed=1,2", SWEEP).code == 0
    before = ledger()
    shutil.move("sweep", "moved")
    assert verb("report", "moved").result["best"]["run"].startswith(str(tmp_path / "moved"))
    moved = [{**row, "run": str(tmp_path / "moved" / row["job"])} for row in before]
    assert ledger(Path("moved")) == moved


def test_a_job_that_reads_running_without_a_process_is_interrupted(dltrain, verb, tmp_path):
    book = Book(tmp_path)
    book.add("seed=1", val_loss=0.1)
    book.add("seed=2", "running")
    killed_early = book.add("seed=3")
    (killed_early.folder / "result.json").unlink()
    killed_early.refresh()
    book.write()
    assert [row["status"] for row in ledger(tmp_path)] == ["done", "running", "running"]
    told = (tmp_path / "sweep.csv").read_bytes()

    def statuses() -> list[str]:
        assert (answer := verb("report", str(tmp_path))).code == 0, answer.stderr
        return [job.status for job in settled(tmp_path)]

    sweep, job = RunFolder(tmp_path, ""), RunFolder(tmp_path / "1", "")
    sweep.lock()
    try:
        assert is_in_use(tmp_path) is True
        assert statuses() == ["done", "running", "running"]
        assert verb("report", str(tmp_path)).result["status"] == "running"
        assert (tmp_path / "sweep.csv").read_bytes() == told  # the sweep writes it
    finally:
        sweep.release()
    job.lock()  # dltrain resume
    try:
        assert statuses() == ["done", "running", "interrupted"]
    finally:
        job.release()
    assert is_in_use(tmp_path) is False
    assert statuses() == ["done", "interrupted", "interrupted"]
    answer = verb("report", str(tmp_path)).result
    assert (answer["status"], answer["interrupted"], answer["running"]) == ("interrupted", 2, 0)
    assert [row["status"] for row in ledger(tmp_path)] == ["done", "interrupted", "interrupted"]
    assert "1 done, 2 interrupted" in (tmp_path / "sweep.html").read_text()


def test_the_page_of_a_sweep_takes_no_further_words(verb, tmp_path):
    Book(tmp_path).write()
    for words in (["optim.lr=3"], ["another"], ["optim.lr=3", "out=page.html"]):
        refused = verb("report", str(tmp_path), *words)
        assert (refused.code, refused.result["status"]) == (2, "invalid")
        assert refused.stderr == f"dltrain: the page of a sweep takes nothing but out=FILE, and not {words[0]}\n"
    assert verb("report", str(tmp_path), "out=page.html").code == 0
    assert Path("page.html").exists() and not (tmp_path / "sweep.html").exists()


@pytest.mark.parametrize("text", ["", '{"format": 1, "jobs": [{"jo', "[]", "{}", '{"format": 1, "jobs": [{"job": 0}]}'])
def test_a_ledger_that_cannot_be_read_is_refused(dltrain, verb, tmp_path, text):
    file = tmp_path / "sweep" / "sweep.json"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(UserError):
        Ledger(file.parent)
    refused = verb("report", "sweep")
    assert (refused.code, refused.result["status"]) == (2, "invalid")
    assert refused.stderr.count("dltrain: ") == 1 and str(file) in refused.stderr


def test_a_sweep_does_not_start_on_a_ledger_that_cannot_be_read(dltrain, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{")
    refused = dltrain("-m", *SHORT, "seed=1,2", SWEEP)
    assert (refused.code, refused.result["status"]) == (2, "invalid")
    assert f"'{tmp_path / 'sweep' / 'sweep.json'}' cannot be read: " in refused.stderr
    assert (tmp_path / "sweep" / "sweep.json").read_text() == "{"
