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
from dltrain.commands.help import _KEYS, help_text
from dltrain.commands.verbs import VERBS

SHELLS = {
    "bash": (
        'eval "$(dltrain -sc install=bash)"; COMP_LINE="{line}"; COMP_WORDS=({line}); COMP_CWORD={word};'
        ' COMP_POINT=${{#COMP_LINE}}; hydra_bash_completion; printf "%s\\n" "${{COMPREPLY[@]}}"'
    ),
    "zsh": (
        'eval "$(dltrain -sc install=zsh)"; complete_line() {{ emulate -L sh; COMP_LINE="{line}";'
        ' hydra_bash_completion; printf "%s\\n" "${{COMPREPLY[@]}}"; }}; complete_line'
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


def test_behind_several_values_the_keys_of_the_first_are_completed(capsys, monkeypatch):
    assert completed(capsys, monkeypatch, "dltrain -m optim=adam,adamw optim.bet") == {"optim.betas."}
    assert completed(capsys, monkeypatch, "dltrain -m optim=adam,sgd optim.amsgrad=t") == {"optim.amsgrad=true"}


def test_the_users_own_options_are_completed(capsys, monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "lovely.yaml").write_text("_target_: some.Class\n")
    line = f"dltrain check --config-dir {tmp_path} model=lo"
    assert completed(capsys, monkeypatch, line) == {"model=lovely"}
    assert completed(capsys, monkeypatch, line.replace("dir ", "dir=")) == {"model=lovely"}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dltrain check scheduler=c", ["scheduler=cosine"]),
        ("dltrain --conf", ["--config-dir", "--config-name"]),
        ("dltrain check logger=[csv,te", ["logger=[csv,tensorboard"]),
        ("dltrain optim.lr=-1 --cfg job modle=x trainer.ep", []),  # a line that is wrong so far
    ],
)
@pytest.mark.parametrize("shell", SHELLS)
def test_the_installed_completion_works_in_the_shell_itself(tmp_path, shell, line, offered):
    assert shell_offers(tmp_path, shell, line) == offered


def test_fish_offers_files_where_they_belong(tmp_path):
    (tmp_path / "pictures").mkdir()
    assert shell_offers(tmp_path, "fish", "dltrain evaluate pic") == ["pictures/"]
    assert shell_offers(tmp_path, "fish", "dltrain dataset.root=pic") == ["dataset.root=pictures/"]


def shell_offers(tmp_path, shell: str, line: str) -> list[str]:
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    (tmp_path / "bin").mkdir(exist_ok=True)
    script = tmp_path / "bin" / "dltrain"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom dltrain.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    run = subprocess.run(
        [shell, *(["-f"] if shell == "zsh" else []), "-c", SHELLS[shell].format(line=line, word=2)],
        env={**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert "usage" not in run.stdout and "{" not in run.stdout
    assert run.stderr == ""
    return run.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dltrain --conf", "--config-dir --config-name"),
        ("dltrain resume outputs/mine --", "--help --force"),
        ("dltrain list --", "--help --config-dir"),
        ("dltrain predict outputs/mine --", "--help"),
        ("dltrain --cfg ", "all hydra job"),
        ("dltrain --config-dir ", ""),
        ("dltrain model=mlp,l", "model=mlp,lenet model=mlp,lstm"),
        ("dltrain -m model=[mlp,ru,r", "model=[mlp,ru,resnet18 model=[mlp,ru,rnn"),
        ("dltrain logger=[csv,te", "logger=[csv,tensorboard"),
        ("dltrain trainer.precision=", "trainer.precision=auto trainer.precision=bf16 trainer.precision=fp16"
         " trainer.precision=fp32"),
        ("dltrain trainer.compile=", "trainer.compile=false trainer.compile=true"),
        ("dltrain optim.nesterov=t", "optim.nesterov=true"),
        ("dltrain device=cu", "device=cuda"),
        ("dltrain model.activation=re", "model.activation=relu"),
        ("dltrain scheduler=onecycle scheduler.anneal_strategy=", "scheduler.anneal_strategy=cos"
         " scheduler.anneal_strategy=linear"),
        ("dltrain optim.lr=", "optim.lr=0.05"),
        ("dltrain modle=x optim.", ""),
        ("dltrain export outputs/mine ", "format=onnx format=safetensors format=state_dict format=torch_export out="),
        ("dltrain export outputs/mine format=o", "format=onnx"),
        ("dltrain explain outputs/mine x.png method=in", "method=input_x_gradient method=integrated_gradients"),
        ("dltrain evaluate outputs/mine model=l", ""),
        ("dltrain evaluate outputs/mine mod", "model."),
        ("dltrain resume outputs/mine logger=n", "logger=none"),
        ("dltrain check modle", ""),
    ],
)  # fmt: skip
def test_what_is_offered(capsys, monkeypatch, tmp_path, line, offered):
    monkeypatch.chdir(tmp_path)
    assert completed(capsys, monkeypatch, line) == set(offered.split())


def test_behind_a_run_the_keys_are_its_own(dltrain, capsys, monkeypatch):
    run = dltrain("optim=adamw", "trainer.epochs=1", "dataset.limit=8").folder
    assert completed(capsys, monkeypatch, f"dltrain evaluate {run} optim.bet") == {"optim.betas."}
    assert completed(capsys, monkeypatch, f"dltrain evaluate {run} optim.mom") == set()


def test_files_are_offered_beside_the_words_of_a_verb(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.png").touch()
    (tmp_path / ".hidden").touch()
    assert completed(capsys, monkeypatch, "dltrain predict outputs/mine ") == {"out=", "photos/", "photo.png"}
    assert completed(capsys, monkeypatch, "dltrain dataset.root=ph") == {
        "dataset.root=photos/",
        "dataset.root=photo.png",
    }
    assert completed(capsys, monkeypatch, "dltrain hydra.run.dir=./ph") >= {"hydra.run.dir=./photos/"}


def test_the_words_of_verbs_and_flags_are_those_that_there_are():
    from dltrain.commands.completion import FLAGS
    from dltrain.commands.evaluate import _SPLITS
    from dltrain.commands.explain import _METHODS
    from dltrain.commands.export import _SUFFIXES
    from dltrain.config.command_line import parser

    known = {"evaluate": ("split", _SPLITS), "explain": ("method", _METHODS), "export": ("format", _SUFFIXES)}
    for name, (key, words) in known.items():
        assert {word for word in VERBS[name].words if word.startswith(key)} == {f"{key}={word}" for word in words}
    assert set(FLAGS) <= {flag for action in parser()._actions for flag in action.option_strings}


def test_completion_is_installed_in_three_shells(capsys):
    assert cli.main(["-sc", "install=tcsh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


def test_the_users_own_options_are_listed(capsys, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "augment").mkdir()
    (tmp_path / "model" / "lovely.yaml").write_text("# A lovely model\n_target_: some.Class\n")
    (tmp_path / "model" / "odd.yaml").write_bytes(b"# \xff\n")
    (tmp_path / "augment" / "mine.yaml").write_text("flip: true\n")
    listed = said(capsys, "list", "--config-dir", str(tmp_path), "model")
    assert "  lovely                A lovely model\n" in listed and "  cnn " in listed and "  odd " in listed
    assert "augment\n  mine\n" in said(capsys, "list", f"--config-dir={tmp_path}")
    assert "lovely" in said(capsys, "--config-dir", str(tmp_path), "--help")
    assert "lovely" not in said(capsys, "list") + said(capsys, "--help")
    assert cli.main(["list", "--config-dir", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
