"""Files in the folder of a run or sweep that some other program wrote, or that are damaged: named, with exit 2."""

import itertools
import json
import pickle
import re
import shutil

import pytest
import torch

from dltrain import cli
from dltrain.data.base import Facts
from dltrain.data.stored import require_consistent
from dltrain.runs import checkpoint
from dltrain.runs.record import command_of, history_of, read_config, read_environment, read_result
from dltrain.system.files import mismatch
from dltrain.trained.result import show


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["trainer.epochs=2", "dataset.limit=16", "report=false", "hydra.run.dir=run"]) == 0
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of it, as ``run`` in the working directory."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(finished, tmp_path / "run")


FOREIGN = {  # what a file holds that it should not
    "empty": b"",
    "cut": None,
    "list": b"[1, 2]",
    "number": b"3",
    "other": b'{"name": "theirs", "version": 2}',
    "utf16": '{"status": "done"}'.encode("utf-16"),
    "pickle": pickle.dumps({"status": "done"}),
    "deep": b"[" * 100_000,
    "nul": b"\0\0\0\0",
}
READERS = {  # the verbs that read a file
    "config.yaml": (["resume", "run"], ["report", "run"], ["compare", "run", "run"]),
    "result.json": (["resume", "run"], ["report", "run"], ["compare", "run", "run"]),
    "environment.json": (["resume", "run"], ["report", "run"], ["evaluate", "run"], ["predict", "run", "x.png"]),
    "metrics.csv": (["report", "run"], ["compare", "run", "run", "out=page.html"]),
    ".hydra/hydra.yaml": (["report", "run"], ["compare", "run", "run"]),
    ".hydra/config.yaml": (["report", "run"],),
    "checkpoints/best.pt": (["evaluate", "run"], ["predict", "run", "x.png"], ["export", "run", "format=state_dict"]),
}
# An empty table is that of a run that has just begun; Hydra's two files, and environment.json, may hold other keys.
HARMLESS = {
    ("metrics.csv", "empty"),
    ("metrics.csv", "cut"),
    *((name, "other") for name in ("environment.json", ".hydra/hydra.yaml", ".hydra/config.yaml")),
    *((name, "cut") for name in (".hydra/hydra.yaml", ".hydra/config.yaml")),  # which may be YAML all the same
}


def require_named(outcome, name):
    assert outcome.code == 2, outcome.stderr
    assert "Traceback" not in outcome.stderr
    (problem,) = outcome.result["problems"]
    assert name in problem and len(problem) < 2000
    assert outcome.stderr.count("dltrain: ") == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [pair for pair in itertools.product(READERS, FOREIGN) if pair not in HARMLESS],
    ids=lambda value: value,
)
def test_a_file_that_is_not_what_it_should_be_is_named(verb, run, name, kind):
    file = run / name
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2 - 3] if FOREIGN[kind] is None else FOREIGN[kind])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "train.log"}
    for arguments in READERS[name]:
        require_named(verb(*arguments), name)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("name", READERS)
def test_a_folder_in_the_place_of_a_file_is_named(verb, run, name):
    (run / name).unlink()
    (run / name).mkdir()
    for arguments in READERS[name]:
        require_named(verb(*arguments), name)


@pytest.mark.parametrize("name", [name for name in READERS if name != "checkpoints/best.pt"])
def test_a_file_that_is_missing_is_done_without(verb, run, name):
    (run / name).unlink()
    for arguments in READERS[name]:
        if "x.png" not in arguments:
            assert verb(*arguments).code == 0, arguments


@pytest.mark.parametrize(
    ("entries", "place"),
    [
        ({"status": 3}, "status must be text"),
        ({"best": []}, "best must be a mapping"),
        ({"best": {"epoch": 1}}, "best.monitor is missing"),
        ({"best": {"epoch": True, "monitor": "val/loss", "val": {}}}, "best.epoch must be a whole number"),
        ({"test": {"loss": "low"}}, "test.loss must be"),
        ({"seconds": "long"}, "seconds must be"),
        ({"error": ["a"]}, "error must be text"),
        ({"confusion_matrix": [[1, "2"]]}, "confusion_matrix[0][1] must be a whole number"),
        ({"confusion_matrix": [[1, 2]]}, "config.yaml: they differ in their classes"),
        ({"timings": {"train": "long"}}, "timings.train must be"),
        ({"seconds": float("inf")}, "Infinity is no number"),
        ({"test": {"loss": float("nan")}}, "NaN is no number"),
        ({"seconds": 10**400}, "it is no JSON"),
        ({"error": "\ud800"}, "it is no JSON"),
    ],
)
def test_an_entry_of_a_wrong_type_is_named(verb, run, entries, place):
    (run / "result.json").write_text(json.dumps(read_result(run) | entries))
    outcome = verb("report", "run")
    require_named(outcome, "result.json")
    assert place in outcome.stderr


@pytest.mark.parametrize("epoch", ["nan", "inf", "first"])
def test_a_row_of_no_epoch_is_named(verb, run, epoch):
    text = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(text.replace("\n2,", f"\n{epoch},"))
    for arguments in (["report", "run"], ["compare", "run", "run", "out=page.html"]):
        outcome = verb(*arguments)
        require_named(outcome, "metrics.csv")
        assert "line 3: " in outcome.stderr


def test_the_last_row_of_a_table_may_still_be_written(run):
    rows = history_of(run)
    text = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(text[:-9])
    assert history_of(run) == rows[:1]


def test_what_a_run_wrote_is_read_back(run):
    assert read_result(run)["status"] == "done"
    assert read_config(run)["trainer"]["epochs"] == 2
    assert read_environment(run)["seed"] == 1
    assert [row["epoch"] for row in history_of(run)] == [1, 2]


@pytest.mark.parametrize("name", ["config.yaml", "outputs.yaml"])
def test_a_folder_of_another_program_is_no_run(verb, tmp_path, name):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).write_text("name: theirs\nlayers: [1, 2]\n")
    for arguments in (["resume"], ["report"], ["compare", "theirs"], ["evaluate"], ["predict", "x.png"], ["export"]):
        outcome = verb(arguments[0], "theirs", *arguments[1:])
        require_named(outcome, "theirs")
    outcome = verb("--config-dir", "theirs", "--config-name", name.removesuffix(".yaml"))
    assert outcome.code == 2 and f"theirs/{name}, line 1" in outcome.stderr and "Traceback" not in outcome.stderr


@pytest.mark.parametrize("name", ["x" * 300, "~nobody_of_this_name/run", "a\nb", "-", "*"])
def test_a_name_that_can_be_no_folder_is_a_message(verb, name):
    for arguments in (["report", name], ["compare", name, name], ["evaluate", name], ["resume", name]):
        outcome = verb(*arguments)
        assert outcome.code == 2 and "Traceback" not in outcome.stderr


CONTENTS = [
    # a change of what best.pt holds, and what the message must say
    (lambda content: content.pop("facts"), "facts is missing"),
    (lambda content: content.update(facts=[1]), "facts must be a mapping"),
    (lambda content: content["facts"].update(input_shape="wide"), "facts.input_shape must be a list"),
    (lambda content: content["facts"].update(extra=3), "extra"),
    (lambda content: content.update(config=3), "config must be text"),
    (lambda content: content.update(config="- 1\n- 2\n"), "no configuration of a run"),
    (lambda content: content.update(config="a: [1\n"), "no configuration of a run"),
    (lambda content: content.update(config="a: 1\n"), "it has no dataset, model, loss"),
    (lambda content: content.update(config=content["config"].replace("trainer:", "trainer: [1]\nother:")), "trainer"),
    (lambda content: content.update(epoch="last"), "epoch must be a whole number"),
    (lambda content: content.update(model=[1]), "model must be a mapping"),
    (lambda content: content.update(model={"weight": 3}), "do not fit"),
    (lambda content: content.update(model={"weight": torch.ones(2)}), "do not fit"),
    (lambda content: content.update(preprocessing={"mean": "low", "std": 1}), "preprocessing"),
    (lambda content: content.update(preprocessing={"mean": [0.5]}), "preprocessing"),
    (lambda content: content.update(preprocessing={"levels": 0}), "preprocessing.levels must be from 1 to 255"),
    (lambda content: content["preprocessing"].update(white=10**400), "preprocessing"),
    (lambda content: content["preprocessing"].update(std=[-1.0]), "preprocessing.std must be finite"),
    (lambda content: content["preprocessing"].update(background="red"), "preprocessing.background must be a colour"),
    (lambda content: content["facts"].update(task="guess"), "facts.task must be one of classification, regression"),
    (lambda content: content["facts"].update(kind="sound"), "facts.kind must be one of image, table, series"),
    (lambda content: content["facts"].update(input_shape=[1, -8, 8]), "facts.input_shape must be 3 numbers"),
    (lambda content: content["facts"].update(class_names=["a"]), "facts.class_names must be as many"),
    (lambda content: content["facts"].update(class_names=["\ud800"] * 10), "surrogates not allowed"),
    (lambda content: content["facts"].update(target_std=0.0), "facts.target_std must be finite"),
    (lambda content: content["facts"].update(class_names=[], num_outputs=3), "facts and a network that do not fit"),
    (lambda content: content.update(model={3: torch.ones(2)}), "do not fit"),
    (lambda content: content.update(shards=3), "shards must be a mapping"),
    (lambda content: content.update(shards={"folder": "../best-1", "files": {}}), "shards that do not lie beside it"),
]


@pytest.mark.parametrize(("change", "fragment"), CONTENTS, ids=[fragment for _, fragment in CONTENTS])
def test_a_checkpoint_with_a_right_checksum_and_wrong_contents_is_named(verb, run, change, fragment):
    path = run / "checkpoints" / "best.pt"
    content = checkpoint.load(path)
    del content["format"]
    change(content)
    checkpoint.save(path, content)
    for arguments in (["evaluate", "run"], ["export", "run", "format=state_dict"]):
        outcome = verb(*arguments)
        require_named(outcome, "best.pt")
        assert fragment in outcome.stderr


STATES = [
    # a change of the trainer's state in last.pt, and what the message must say
    (lambda state: state.update(epoch="2"), "trainer.epoch must be a whole number"),
    (lambda state: state.update(seconds="long"), "trainer.seconds must be"),
    (lambda state: state.update(history=[{"epoch": "first"}] * 2), "trainer.history[0].epoch must be"),
    (lambda state: state.update(events=[3]), "trainer.events[0] must be a mapping"),
    (lambda state: state.update(history=[]), "its history is not that of its epochs and steps"),
    (lambda state: state.update(step=-1), "its history is not that of its epochs and steps"),
    (lambda state: state["optimizer"]["param_groups"][0].update(lr="fast"), "the optimizer's lr is 'fast'"),
    (lambda state: state["optimizer"]["state"][0].update(momentum_buffer=None), "momentum_buffer is of several kinds"),
    (lambda state: state["optimizer"]["state"][0].update(momentum_buffer=torch.ones(2, 3)), "has the shape (2, 3)"),
    (lambda state: state["random"]["numpy"].__setitem__(2, 10**6), "the state of NumPy's generator is none"),
]


@pytest.mark.parametrize(("change", "fragment"), STATES, ids=[fragment for _, fragment in STATES])
def test_a_state_with_a_right_checksum_and_wrong_contents_is_named(verb, run, change, fragment):
    path = run / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    del content["format"]
    change(content["trainer"])
    checkpoint.save(path, content)
    outcome = verb("resume", "run/checkpoints/last.pt", "trainer.epochs=3")
    require_named(outcome, "last.pt")
    assert fragment in outcome.stderr


DIALECT = {"separator": ",", "header": True}
TABLE = {"numeric": {"x": {"mean": 0.5, "std": 2.0, "missing": 0.0}}, "categorical": {"c": ["a"]}, "others": []}
SERIES = {"columns": ["y", "x"], "mean": [1.0, 2.0], "std": [1.0, 2.0], "time": None, "time_layout": "", "step": None}
STORED = [
    ("table", TABLE, ""),
    ("table", {**TABLE, "numeric": {"x": {"mean": 0.5}}}, "preprocessing: numeric.x.std is missing"),
    ("table", {**TABLE, "categorical": {"c": ["a", "b"]}}, "preprocessing has other columns than facts.input_shape"),
    ("table", {**TABLE, "separator": "ab"}, "dataset.separator must be one ASCII character"),
    ("series", SERIES, ""),
    ("series", {**SERIES, "step": {"unit": "months", "count": 1, "on": "last"}}, ""),
    ("series", {**SERIES, "step": {"unit": "months", "count": 0, "on": 1}}, "preprocessing.step is no step of times"),
    ("series", {**SERIES, "step": {"unit": "weekdays", "count": 1, "on": "0000000"}}, "is no step of times"),
    ("series", {**SERIES, "columns": ["y", "y"]}, "preprocessing.columns must be those of facts.input_shape"),
    ("series", {**SERIES, "std": [1.0]}, "must be 2 numbers each"),
    ("series", {**SERIES, "time_layout": "%Y"}, "preprocessing.time_layout is no notation of times"),
]


@pytest.mark.parametrize(("kind", "stored", "told"), STORED)
def test_what_a_run_has_stored_of_its_data_fits_its_facts(kind, stored, told):
    facts = Facts("made", "regression", kind, (3,) if kind == "table" else (5, 2), 1)
    if not told:
        require_consistent(facts, {**DIALECT, **stored})
        return
    with pytest.raises(ValueError, match=re.escape(told)):
        require_consistent(facts, {**DIALECT, **stored})


@pytest.mark.parametrize("theirs", [{"state_dict": {"weight": torch.ones(2)}}, torch.ones(2), {"format": "theirs"}])
def test_a_checkpoint_of_another_program_is_named(verb, run, theirs):
    for name in ("best.pt", "last.pt", "last-1.pt"):
        torch.save(theirs, run / "checkpoints" / name)
    for arguments in (
        ["evaluate", "run"],
        ["resume", "run/checkpoints/last.pt"],
        ["evaluate", "run/checkpoints/last.pt"],
    ):
        require_named(verb(*arguments), ".pt")
    assert verb("resume", "run").code == 2


def test_a_result_without_the_time_of_training_is_shown(verb, run):
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"timings": {"train": None}}))
    assert verb("report", "run").code == 0


@pytest.mark.parametrize("name", ["result.json", "environment.json"])
def test_a_run_that_goes_on_by_itself_writes_a_damaged_file_anew(dltrain, verb, run, name):
    (run / name).write_text("[1")
    command = ("trainer.epochs=3", "dataset.limit=16", "hydra.run.dir=run", "resume=auto")
    gone_on = dltrain(*command)
    assert gone_on.code == 0 and f"{name}' cannot be read" in gone_on.stderr
    assert json.loads((run / name).read_text())


LEDGER = {"format": 1, "command": "dltrain", "objectives": [], "swept": [], "config": {}, "jobs": []}
JOB = {"job": 0, "overrides": ["seed=1"], "folder": "0", "cause": "", "config": {}}


@pytest.mark.parametrize(
    "content",
    [
        *(content for content in FOREIGN.values() if content is not None),
        *(
            json.dumps(LEDGER | entries).encode()
            for entries in (
                {"format": 7},
                {"jobs": {}},
                {"jobs": [3]},
                {"jobs": [JOB | {"folder": "../../elsewhere"}]},
                {"jobs": [JOB | {"folder": "/elsewhere"}]},
                {"jobs": [JOB | {"folder": "0\0"}]},
                {"jobs": [JOB | {"folder": "${oc.env:HOME}"}]},
                {"jobs": [JOB | {"folder": "\udc80"}]},
                {"jobs": [JOB | {"overrides": "seed=1"}]},
                {"jobs": [JOB | {"job": "first"}]},
                {"jobs": [JOB | {"config": [1]}]},
                {"objectives": [[1, 2]]},
                {"swept": 3},
            )
        ),
    ],
    ids=lambda content: content[:70].decode(errors="replace"),
)
def test_a_ledger_that_is_none_is_named(verb, tmp_path, content):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_bytes(content)
    require_named(verb("report", "sweep"), "sweep.json")
    assert {path.name for path in tmp_path.rglob("*")} == {"sweep", "sweep.json"}


def test_a_job_whose_result_is_damaged_has_failed_and_says_so(verb, tmp_path):
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(LEDGER | {"jobs": [JOB]}))
    (tmp_path / "sweep" / "0").rename(tmp_path / "elsewhere")
    (tmp_path / "sweep" / "0").symlink_to(tmp_path / "elsewhere")  # on a larger disk
    (tmp_path / "sweep" / "0" / "result.json").write_text("[1")
    assert verb("report", "sweep").result["failed"] == 1
    assert (
        "0/result.json' cannot be read: it is not the result of a run" in (tmp_path / "sweep" / "sweep.csv").read_text()
    )


HOSTILE = [
    "${oc.env:SECRET}",
    "$(touch ran)",
    "`touch ran`",
    "'; touch ran; '",
    "[/bold] [red]",
    "\x1b[2J\x9b2J",
    "a\nb",
    "\udcff",
]


def test_hostile_texts_of_a_sweep_are_shown_as_texts(verb, tmp_path, monkeypatch, capsys):
    """On a terminal, on the page, in the table and in the answer."""
    monkeypatch.setenv("SECRET", "a secret")
    jobs = []
    for number, text in enumerate(HOSTILE):
        (tmp_path / "sweep" / str(number)).mkdir(parents=True)
        job = {"job": number, "overrides": [f"{text}={text}", f"x={text}"], "folder": str(number)}
        jobs.append({**job, "cause": "" if number < 2 else text, "config": {"own": {text: text}, "without": [text]}})
        best = {"epoch": 1, "monitor": "val/loss", "val": {"loss": 1e200 if number else 0.5, text: -1e200}}
        result = {"status": "done", "best": best, "command": f"dltrain {text}; touch ran", "run": text}
        (tmp_path / "sweep" / str(number) / "result.json").write_text(json.dumps(result))
    content = LEDGER | {"command": "x; touch ran", "jobs": jobs, "swept": HOSTILE, "config": {"a": HOSTILE}}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(content))
    outcome = verb("report", "sweep")
    assert outcome.code == 0, outcome.stderr
    with monkeypatch.context() as patch:
        patch.setattr("dltrain.sweep.result.on_terminal", lambda: True)
        shown = verb("report", "sweep")
    assert shown.code == 0, shown.stderr
    written = (tmp_path / "sweep" / "sweep.html").read_text() + (tmp_path / "sweep" / "sweep.csv").read_text()
    for text in (outcome.stdout, shown.stdout, written):
        assert "a secret" not in text
    for text in (outcome.stdout, shown.stdout):
        assert "\x1b" not in text and "\x9b" not in text
    assert "[/bold] [red]" in shown.stdout


def test_what_a_sweep_of_others_says_of_its_jobs_runs_nothing(dltrain, tmp_path):
    """They are composed again, to see that nothing has changed since, where that names nothing to run."""
    (tmp_path / "stranger.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    typed = ["dataset.limit=16", "trainer.epochs=1", "report=False"]
    others = [
        ["model._target_=stranger.Net"],
        ["model={_target_:stranger.Net}"],
        ['model.dropout="${oc.create:{_target_:stranger.Net}}"'],
        [f"optim.lr={'[' * 2000}{']' * 2000}"],
        ["seed=1", "hydra.sweep.dir=elsewhere", "hydra.callbacks.x._target_=stranger.Net"],
    ]
    jobs = [
        JOB | {"job": number, "folder": str(number), "overrides": [*typed, *own]} for number, own in enumerate(others)
    ]
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(LEDGER | {"jobs": jobs}))
    outcome = dltrain("-m", "dataset.limit=16", "trainer.epochs=1", "seed=1", "hydra.sweep.dir=sweep")
    assert "Traceback" not in outcome.stderr
    assert outcome.result["done"] == 1, outcome.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"stranger.py", "sweep"}
    told = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    assert [(job["job"], job["overrides"]) for job in told if "seed=1" in job["overrides"]] == [(4, [*typed, "seed=1"])]


COMMANDS = {
    "dltrain optim.lr=0.1": True,
    "dltrain 'dataset.root=my photos' -m": True,
    "dltrain x; touch ran": False,
    "dltrain $(touch ran)": False,
    "dltrain `touch ran`": False,
    "dltrain x | sh": False,
    "dltrain x\ntouch ran": False,
    "dltrain 'x\ny'": False,
    "dltrain '\x1b[2J'": False,
    "dltrain 'x": False,
    "rm -rf .": False,
    "": False,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_shown_if_a_shell_takes_it_as_it_reads(command):
    assert command_of({"command": command}) == (command if COMMANDS[command] else "")


def test_a_page_shows_no_command_that_is_none(verb, run):
    for command in ("dltrain seed=2", "dltrain seed=2; touch ran"):
        (run / "result.json").write_text(json.dumps(read_result(run) | {"command": command}))
        assert verb("report", "run").code == 0
        page = (run / "report.html").read_text()
        assert "touch ran" not in page
        assert ("To repeat it" in page) == (command == "dltrain seed=2")


def test_a_result_of_others_is_shown_as_it_reads(monkeypatch, capsys):
    monkeypatch.setattr("dltrain.trained.result.on_terminal", lambda: True)
    text = "[/a] [red]\x1b[2J"
    show({"status": text, "run": text, "best": {"epoch": 1, "monitor": text, "val": {text: 0.5}}, "seconds": None})
    shown = capsys.readouterr().out
    assert shown.count("[/a] [red]\\x1b[2J") == 4 and "\x1b" not in shown


@pytest.mark.parametrize(
    ("value", "structure", "told"),
    [
        ({"a": 1}, {"a!": int}, ""),
        ({"b": 1}, {"a!": int}, "a is missing"),
        ({"b": 1}, {"a": int}, ""),
        ({"a": {"b": [1, "x"]}}, {"a": {"b": [int]}}, "a.b[1] must be a whole number"),
        ({"a": None}, {"a": int | None}, ""),
        ({"a": True}, {"a": int}, "a must be a whole number"),
        ({"a": True}, {"a": bool}, ""),
        ({"x": 1.5, "y": "z"}, {str: float | None}, "y must be a number or null"),
        ([1], {"a": int}, "it must be a mapping"),
        ({1: "x"}, {str: object}, "the name 1 must be text"),
    ],
)
def test_a_structure_says_where_a_value_is_another(value, structure, told):
    assert mismatch(value, structure) == told
