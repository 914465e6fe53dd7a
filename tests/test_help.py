"""What the command says about itself, and what the shell completes."""

import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files

import pytest
from conftest import GROUPS, options

from dltrain import cli
from dltrain.help import _KEYS, help_text
from dltrain.verbs import VERBS

SHELLS = {
    "bash": (
        'eval "$(dltrain -sc install=bash)"; COMP_LINE="{line}"; COMP_WORDS=({line}); COMP_CWORD={word};'
        ' COMP_POINT=${{#COMP_LINE}}; hydra_bash_completion; printf "%s\\n" "${{COMPREPLY[@]}}"'
    ),
    "fish": 'dltrain -sc install=fish | source; complete -C "{line}"',
}


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints when all is well."""
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


def completed(capsys, monkeypatch, line: str, shell: str = "bash") -> set[str]:
    """What a shell is offered for ``line``."""
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return set(said(capsys, "-sc", f"query={shell}").split())


def test_the_help_fits_on_one_screen(capsys):
    lines = said(capsys, "--help").splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100


def test_the_help_names_every_verb_group_and_option():
    screen = help_text([])
    for name, verb in VERBS.items():
        assert f"dltrain {name} {verb.usage}" in screen
    for group in GROUPS:
        (row,) = re.findall(rf"^  {group} +((?:.+)(?:\n {{13}}.+)*)", screen, re.MULTILINE)
        assert set(row.split()) == set(options(group))


def test_the_first_option_of_a_group_in_the_help_is_its_default(composed):
    screen = help_text([])
    for group in ("dataset", "model", "loss", "optim"):
        (first,) = re.findall(rf"^  {group} +(\S+)", screen, re.MULTILINE)
        assert composed([f"{group}={first}"]) == composed([])


def test_the_keys_in_the_help_have_the_defaults_that_a_run_has(composed):
    cfg = composed([])
    for key in _KEYS.keys() - {"scheduler.interval"}:
        (shown,) = re.findall(rf"^  {key}=(\S+)", help_text([]), re.MULTILINE)
        node = cfg
        for part in key.split("."):
            node = node[part]
        assert shown == ("null" if node is None else str(node))


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("switch", ["--help", "-h"])
def test_every_verb_explains_itself(capsys, name, switch):
    text = said(capsys, name, switch)
    assert text.startswith(f"dltrain {name} ")
    assert len(text.splitlines()) > 3
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_can_be_imported(name):
    module, function = VERBS[name].run.split(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_hydras_own_help_is_still_there(shell):
    assert "--config-dir" in shell("--hydra-help").stdout


def test_list_gives_each_option_the_first_line_of_its_file(capsys):
    lines = said(capsys, "list").splitlines()
    header = (files("dltrain.conf") / "optim" / "sgd.yaml").read_text().splitlines()[0].removeprefix("# ")
    assert [line for line in lines if line.split() == ["sgd", *header.split()]]
    assert {line for line in lines if line and not line.startswith(" ")} == set(GROUPS)


def test_groups_options_and_keys_are_completed(capsys, monkeypatch):
    assert completed(capsys, monkeypatch, "dltrain mod") == {"model=", "model."}
    assert completed(capsys, monkeypatch, "dltrain model=l") == {"model=lenet", "model=lstm"}
    assert completed(capsys, monkeypatch, "dltrain optim.mom") == {"optim.momentum="}


def test_what_stands_before_counts_in_completion(capsys, monkeypatch):
    assert completed(capsys, monkeypatch, "dltrain optim=adam optim.bet") == {"optim.betas."}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_overrides_are_completed_behind_a_verb(capsys, monkeypatch, shell):
    assert completed(capsys, monkeypatch, "dltrain check mod", shell) == {"model=", "model."}
    assert completed(capsys, monkeypatch, "dltrain check -m scheduler=c", shell) == {"scheduler=cosine"}


def test_verbs_and_their_words_are_completed(capsys, monkeypatch):
    assert completed(capsys, monkeypatch, "dltrain che") == {"check"}
    assert set(VERBS) <= completed(capsys, monkeypatch, "dltrain ")
    assert completed(capsys, monkeypatch, "dltrain list sch") == {"scheduler"}
    assert completed(capsys, monkeypatch, "dltrain cache ") == {"clear"}
    assert completed(capsys, monkeypatch, "dltrain shards photos out form") == {"format=tar", "format=parquet"}
    assert completed(capsys, monkeypatch, "dltrain compare runs/a o") == {"out="}
    assert completed(capsys, monkeypatch, "dltrain evaluate runs/a split=t") == {"split=test", "split=train"}
    assert completed(capsys, monkeypatch, "dltrain evaluate runs/a split=val dev") == {"device="}
    assert completed(capsys, monkeypatch, "dltrain predict runs/a b/ out=c.csv optim.mom") == {"optim.momentum="}


@pytest.mark.parametrize(
    "line", ["dltrain evaluate ", "dltrain report runs/", "dltrain predict runs/a cats/f", "dltrain shards "]
)
def test_where_a_file_belongs_the_shell_is_left_to_offer_files(capsys, monkeypatch, line):
    assert completed(capsys, monkeypatch, line) == set()


def test_behind_a_run_its_keys_are_completed(capsys, monkeypatch):
    assert completed(capsys, monkeypatch, "dltrain resume ") == set()
    assert completed(capsys, monkeypatch, "dltrain resume outputs/mine trainer.epo") == {"trainer.epochs="}


def test_the_users_own_options_are_completed(capsys, monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "lovely.yaml").write_text("_target_: some.Class\n")
    line = f"dltrain check --config-dir {tmp_path} model=lo"
    assert completed(capsys, monkeypatch, line) == {"model=lovely"}
    assert completed(capsys, monkeypatch, line.replace("dir ", "dir=")) == {"model=lovely"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_installed_completion_works_in_the_shell_itself(tmp_path, shell):
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    script = tmp_path / "dltrain"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom dltrain.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    line = "dltrain check scheduler=c"
    run = subprocess.run(
        [shell, "-c", SHELLS[shell].format(line=line, word=2)],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert run.stdout.split() == ["scheduler=cosine"], run.stderr
