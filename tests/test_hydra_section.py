"""What Hydra itself would make: callbacks, plugins and logging, each one message where it may not, or could not."""

import sys
from pathlib import Path

import hydra
import pytest
from conftest import CONF
from omegaconf import OmegaConf

from dltrain.config.hydra_section import check_hydra

SHORT = ("dataset.limit=8", "trainer.epochs=1", "report=false")
LOG = "hydra.job_logging"
OTHERS: dict[str, object] = {
    "launcher": {},
    "sweeper": {},
    "job_logging": {"root": None},
    "hydra_logging": {"root": None},
}


@pytest.mark.parametrize(
    ("overrides", "fragment"),
    [
        (["+hydra.callbacks.x._target_=dltrain.runs.folder.shutil.rmtree", "+hydra.callbacks.x.path=."], "is refused"),
        (["+hydra.callbacks.x._target_=dltrain.loggers.csv.CSVLogger"], "what may stand here is hydra.experimental"),
        (["+hydra.callbacks.x=5"], "must be a callback"),
        (["+hydra.callbacks.x='${oc.create:{_target_:os.mkdir,path:stolen}}'"], "worked out by a resolver"),
        (["+dataset.x={_target_:os.mkdir,path:stolen}", "+hydra.callbacks.x=${dataset.x}"], "callbacks.x._target_='os"),
        (["+optim.x=os.mkdir", "+hydra.callbacks.x={_target_:'${optim.x}',path:stolen}"], "x._target_='os.mkdir'"),
        (["+hydra.launcher.x={_target_:os.mkdir,path:stolen}"], "nothing is made within this node"),
        (["hydra.sweeper._target_=os.mkdir"], "hydra/sweeper=..."),
        ([f"{LOG}.handlers.file.class=logging.handlers.SocketHandler"], "is refused"),
        ([f"{LOG}.handlers.file.class=logging.Nope"], "is refused"),
        ([f"{LOG}.handlers.file.filename=stolen.py"], "a log lies in the run folder"),
        ([f"{LOG}.handlers.file.filename='${{hydra.runtime.output_dir}}/../stolen.py'"], "a log lies in the run"),
        ([f"{LOG}.handlers.file.filename=nowhere/x.log"], "there is no folder nowhere"),
        ([f"+{LOG}.handlers.file.mood=a"], "unexpected keyword argument 'mood'"),
        ([f"+{LOG}.handlers.stderr.level=NOPE"], "must be one of CRITICAL"),
        ([f"{LOG}.root.level=INF"], "did you mean 'INFO'?"),
        ([f"{LOG}.root.handlers=[flie]"], "there is no handler flie; did you mean 'file'?"),
        ([f"{LOG}.handlers.file.formatter=fiel"], "there is no formatter of this name; did you mean 'file'?"),
        ([f"{LOG}.formatters.file.format=5"], "logging.Formatter cannot be made of this"),
        ([f"{LOG}.formatters.file.format='ext://antigravity.x'"], "is refused"),
        ([f"{LOG}.version=2"], "must be 1"),
        (["hydra.hydra_logging.handlers.stderr.class=os.system"], "is refused"),
        (["hydra.job.env_copy=[NOPE]"], "there is no environment variable NOPE"),
        (["hydra.job.name=../../stolen.py"], "must be a name within the run folder"),
        (["hydra.job.name='${dataset.split_seed}/x'"], "hydra.job.name='0/x'"),
        (["hydra.job.name=.."], "must be a name within the run folder"),
        (["hydra.output_subdir=../stolen"], "must be a name within the run folder"),
        (["hydra.output_subdir='${hydra.runtime.cwd}/stolen'"], "must be a name within the run folder"),
        (["hydra.output_subdir=."], "write hydra.output_subdir=.hydra"),
        (["hydra.callbacks=5"], "this holds keys: hydra.callbacks.KEY=VALUE"),
        (["hydra.launcher=null"], "must hold keys: choose an option, hydra/launcher=..."),
        (["~hydra/job_logging"], "must hold keys: choose an option, hydra/job_logging=dltrain"),
        (["+hydra/job_logging=dltrain"], "without the plus sign: hydra/job_logging=dltrain"),
    ],
    ids=lambda value: value[-1][:60] if isinstance(value, list) else "",
)
def test_a_class_or_file_that_hydra_should_not_make_is_one_message_and_leaves_nothing(
    dltrain, tmp_path, overrides, fragment
):
    outcome = dltrain(*SHORT, *overrides)
    assert outcome.code == 2, outcome.stderr
    assert fragment in outcome.stderr and "Traceback" not in outcome.stderr
    assert "antigravity" not in sys.modules
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group", ["job_logging", "hydra_logging"])
def test_what_hydra_offers_for_its_logging_passes(group):
    folders = (CONF, Path(hydra.__file__).parent / "conf")
    found = [path for folder in folders for path in (folder / "hydra" / group).glob("*.yaml")]
    assert len(found) > 3
    for path in found:
        node = OmegaConf.to_container(OmegaConf.load(path))
        assert list(check_hydra({"hydra": {**OTHERS, group: node}})) == [], path


@pytest.mark.parametrize(
    ("kind", "node"),
    [
        ("formatters", {"()": "logging.config.fileConfig", "fname": "stolen.ini"}),
        ("formatters", {"format": "${model.x}"}),
        ("filters", {"()": "os.getcwd"}),
        ("handlers", {"()": "logging.handlers.SocketHandler", "host": "localhost", "port": 1}),
        ("handlers", {"class": "logging.FileHandler", "filename": "a.log", ".": {"baseFilename": "stolen.py"}}),
        ("handlers", {"class": "logging.StreamHandler", "stream": "ext://os.system"}),
        ("handlers", {"class": "logging.StreamHandler", "stream": "ext:${model.x}"}),
        ("handlers", {"class": "logging.StreamHandler", "stream": "cfg://root"}),
    ],
    ids=str,
)
def test_what_only_a_file_can_say_of_logging_is_refused_too(kind, node):
    logs = {"version": 1, "root": {}, kind: {"x": node}}
    found = list(check_hydra({"hydra": {**OTHERS, "job_logging": logs}}))
    assert [
        (problem.key.startswith(f"hydra.job_logging.{kind}.x."), "refused" in problem.text) for problem in found
    ] == [(True, True)]


def test_a_variable_that_a_file_copies_and_that_is_not_there_is_named(dltrain, tmp_path):
    (tmp_path / "my_conf" / "experiment").mkdir(parents=True)
    file = tmp_path / "my_conf" / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\nhydra:\n  job:\n    env_copy: [NOPE]\n")
    outcome = dltrain("--config-dir", "my_conf", "experiment=mine")
    assert outcome.code == 2
    assert outcome.result["problems"] == [
        "my_conf/experiment/mine.yaml: hydra.job.env_copy: there is no environment variable NOPE"
    ]


def test_keys_that_no_data_set_fills_in_are_named_in_a_file(dltrain, tmp_path):
    (tmp_path / "my_conf" / "experiment").mkdir(parents=True)
    (tmp_path / "my_conf" / "experiment" / "mine.yaml").write_text("# @package _global_\ndata: {1: 2}\n")
    outcome = dltrain("--config-dir", "my_conf", "experiment=mine")
    assert outcome.code == 2
    assert outcome.result["problems"] == [
        "data.1 (my_conf/experiment/mine.yaml, line 2): the data set fills in data, which has no such key: leave it out"
    ]
