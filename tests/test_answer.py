"""What a command leaves: one line of JSON on stdout however it ends, and the process that called it as it was."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import fresh
from made import on_terminal

from dltrain import cli
from dltrain.commands.verbs import VERBS, Verb
from dltrain.errors import ConfigError, Interrupted, TrainingError, UserError
from dltrain.system import answer

SHORT = ("trainer.epochs=1", "dataset.limit=16", "report=false")
CLASS = "import torch\n\n\nclass Net(torch.nn.Linear):\n    def forward(self, inputs):\n        {}\n"
LATER = "if self.training and len(inputs) > 2: "  # behind the look at two samples that a run begins with
GIVEN = "return super().forward(inputs.flatten(1))"


def line_of(text: str) -> dict:
    """The one line that ``text`` is."""
    (line,) = text.splitlines()
    return json.loads(line)


@pytest.mark.parametrize(
    ("code", "error", "ending"),
    [
        (2, ConfigError(["a", "b"]), {"status": "invalid", "problems": ["a", "b"]}),
        (2, UserError("there is no x"), {"status": "invalid", "problems": ["there is no x"]}),
        (1, TrainingError("diverged"), {"status": "failed", "error": "diverged"}),
        (1, ValueError("odd"), {"status": "failed", "error": "ValueError: odd"}),
        (1, None, {"status": "failed", "error": "it ended with exit code 1"}),
        (130, KeyboardInterrupt(), {"status": "interrupted"}),
        (143, Interrupted(signal.SIGTERM), {"status": "interrupted"}),
    ],
)
def test_the_exit_code_says_which_status_it_is(code, error, ending):
    assert answer.ending(code, error) == ending


MISTAKES = {
    "check": ["optim.lr=-1"],
    "list": ["nothing"],
    "cache": ["nothing"],
    **{name: ["nowhere"] for name in ("resume", "evaluate", "export", "report")},
    **{name: ["nowhere", "photo.png"] for name in ("predict", "explain")},
    "compare": ["nowhere", "nowhere"],
    "shards": ["nowhere", "out"],
}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
@pytest.mark.parametrize("name", ["predict", "cache"])
def test_a_signal_in_a_verb_ends_it_with_its_code_and_one_line(verb, monkeypatch, name, number, code):
    monkeypatch.setattr(Verb, "__call__", lambda self, arguments: os.kill(os.getpid(), number))
    before = signal.signal(number, signal.SIG_IGN)  # else it would end the tests where nobody takes it up
    try:
        outcome = verb(name)
    finally:
        signal.signal(number, before)
    assert outcome.code == code
    assert (outcome.result, outcome.stderr) == ({"status": "interrupted"}, "dltrain: interrupted\n")


@pytest.mark.parametrize("name", VERBS)
def test_a_mistake_with_any_verb_is_one_line_with_what_stderr_says(verb, name):
    outcome = verb(name, *MISTAKES[name])
    assert outcome.code == 2
    (problem,) = outcome.result["problems"]
    assert outcome.result == {"status": "invalid", "problems": [problem]}
    assert outcome.stderr == f"dltrain: {problem}\n"


@pytest.mark.parametrize("typed", ["trainr", "--nothing", "optim.lr=-1 seed=-1", "-m seed=-1,-2", "--config-dir no"])
def test_a_mistake_without_a_verb_is_one_line_with_every_problem(verb, typed):
    outcome = verb(*typed.split())
    assert (outcome.code, outcome.result["status"]) == (2, "invalid")
    assert all(problem in outcome.stderr for problem in outcome.result["problems"])
    assert len(outcome.result["problems"]) == (2 if " " in typed and "config" not in typed else 1)


def test_a_run_that_fails_says_why_as_result_json_does(dltrain):
    outcome = dltrain(*SHORT, "optim.lr=1e30", "trainer.epochs=3")
    kept = json.loads((outcome.folder / "result.json").read_text())
    assert outcome.code == 1
    assert "diverged" in outcome.result["error"]
    assert outcome.result == {name: kept[name] for name in ("status", "run", "error", "seconds")}


@pytest.mark.parametrize(
    ("body", "code", "error"),
    [
        ("raise ValueError('odd')", 1, "ValueError: odd"),
        ("import sys; sys.exit(7)", 7, "it ended with exit code 7"),
        (f"{LATER}import sys; sys.exit(7)\n        {GIVEN}", 1, "sys.exit(7)"),
        (f"{LATER}raise ValueError('odd')\n        {GIVEN}", 1, "odd"),
    ],
    ids=["bug", "exit", "exit in training", "bug in training"],
)  # fmt: skip
def test_a_bug_in_the_users_class_is_one_line_as_well(dltrain, tmp_path, body, code, error):
    (tmp_path / "odd.py").write_text(CLASS.format(body))
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "odd.yaml").write_text("_target_: odd.Net\nin_features: 64\nout_features: 10\n")
    ended, stdout, stderr = fresh().run(["--config-dir", "conf", "model=odd", *SHORT])
    assert ended == code, stderr
    assert line_of(stdout)["status"] == "failed" and error in line_of(stdout)["error"]
    assert ("run" in line_of(stdout)) == ("training" in body)


def test_a_sweep_is_one_line_however_its_jobs_end(dltrain):
    failed = dltrain("-m", "optim.lr=0.1,1e30", "trainer.epochs=3", "dataset.limit=16")
    assert (failed.code, failed.result["done"], failed.result["failed"]) == (1, 1, 1)
    basic = dltrain("-m", "hydra/launcher=basic", "seed=1,2", *SHORT)
    assert basic.code == 0
    assert basic.result["status"] == "done" and Path(basic.result["sweep"]).is_dir()
    ended = dltrain("-m", "hydra/launcher=basic", "optim.lr=1e30,0.1", "trainer.epochs=3", "dataset.limit=16")
    assert (ended.code, ended.result["status"]) == (1, "failed")


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (["trainer.epochs=3", "dataset.limit=16", "optim.lr=1e30"], 1, "failed"),
        (["optim.lr=-1"], 2, "invalid"),
        (["dataset=image_folder", "dataset.root=."], 2, "invalid"),  # known to rank 0 once it looks at the files
    ],
)
def test_of_several_processes_one_speaks(together, arguments, code, status):
    first, second = together(2, *arguments, "report=false", "device=cpu")
    assert (first.code, first.result["status"]) == (code, status)
    assert second.stdout == ""


def test_dltrains_own_launcher_leaves_the_line_to_rank_0(shell):
    run = shell("trainer.devices=2", "device=cpu", "optim.lr=1e30", "trainer.epochs=3", "dataset.limit=16")
    assert run.returncode == 1, run.stderr
    assert "diverged" in line_of(run.stdout)["error"]


def test_a_table_on_stdout_gets_no_line_behind_it(dltrain, verb, tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{n},{n * 1.5}\n" for n in range(40)))
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=y", "trainer.epochs=1").folder
    (tmp_path / "new.csv").write_text("x\n1\nodd\n3\n")
    predicted = verb("predict", str(run), "new.csv")
    assert predicted.code == 1 and "broken inputs left out: 1" in predicted.stderr
    assert len(predicted.stdout.splitlines()) == 3 and "{" not in predicted.stdout
    (tmp_path / "new.csv").write_text("x\nodd\n")
    assert verb("predict", str(run), "new.csv").result["status"] == "invalid"
    assert verb("predict", str(run), "new.csv", "out=p.csv").result["status"] == "invalid"


def test_an_interruption_before_the_run_is_one_line(dltrain, monkeypatch):
    from dltrain.data import bundled

    def interrupted(*arguments, **keywords):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(bundled, "digits", interrupted)
    outcome = dltrain(*SHORT)
    assert (outcome.code, outcome.result) == (130, {"status": "interrupted"})


def test_a_terminal_gets_no_json(tmp_path):
    code, text = on_terminal(tmp_path, "optim.lr=-1")
    assert code == 2
    assert "at least 0" in text and "{" not in text


@pytest.mark.parametrize("arguments", ["optim.lr=-1", "list", "compare a b", "-m seed=-1,-2"])
def test_a_reader_that_has_gone_changes_no_exit_code(tmp_path, arguments):
    command = f"{sys.executable} -m dltrain {arguments} | true; echo ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.stdout == ("2\n" if arguments != "list" else run.stdout)
    assert "Traceback" not in run.stderr and "Exception ignored" not in run.stderr


def state():
    """What a command may change in its process, and has no business to."""
    root, own = logging.getLogger(), logging.getLogger("dltrain")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)]
    logs = [list(root.handlers), root.level, list(own.handlers), own.level]
    return [list(sys.argv), list(sys.path), dict(os.environ), handlers, logs, os.getcwd()]


@pytest.mark.parametrize(
    "arguments",
    [" ".join(SHORT), "--cfg job", "optim.lr=-1", "check dataset.limit=16", "evaluate nowhere", "list", "resume no"],
)
def test_the_process_is_left_as_it_was(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = state()
    cli.main(arguments.split())
    assert state() == before


def test_a_program_that_uses_hydra_itself_can_call_dltrain(tmp_path, monkeypatch, capsys):
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    monkeypatch.chdir(tmp_path)
    ConfigStore.instance().store("mine", {"number": 3})
    OmegaConf.clear_resolver("dltrain_unique")
    with initialize_config_module("dltrain.conf", version_base=None):
        assert cli.main([*SHORT, "optim=adam"]) == 0
        assert compose("mine").number == 3
    assert not OmegaConf.has_resolver("dltrain_unique")
    assert line_of(capsys.readouterr().out)["status"] == "done"
