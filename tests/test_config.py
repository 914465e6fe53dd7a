"""The checks of a configuration: they let everything through that works, and know what torch itself would say."""

import inspect
import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from conftest import CONF, GROUPS, options
from hydra.utils import get_object
from omegaconf import OmegaConf, open_dict

from dltrain import config
from dltrain.cli import main
from dltrain.config import limits, source
from dltrain.config.arguments import described, fits
from dltrain.config.origins import file_problems, key_lines
from dltrain.config.rules import LATER, Choice, Either, Many, Number
from dltrain.data.base import Facts
from dltrain.data.stated import Stated, stated_by
from dltrain.errors import ConfigError
from dltrain.models.layers import ACTIVATIONS, Activation
from dltrain.report.metrics import NAMES
from dltrain.training.metrics import ClassificationMetrics, RegressionMetrics

NEEDED = {
    "image_folder": [f"dataset.root={Path(__file__).parent}"],
    "shards": [f"dataset.root={Path(__file__).parent}"],
    "table": [f"dataset.path={__file__}", "dataset.target=y"],
    "series": [f"dataset.path={__file__}", "dataset.target=y"],
}
TARGETS = sorted(
    {
        line.split()[1]
        for path in CONF.rglob("*.yaml")
        if path.relative_to(CONF).parts[0] != "hydra"  # plugins, which Hydra makes
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith("_target_: ") and "null" not in line
    }
)


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_passes(group, composed):
    for option in options(group):
        needed = NEEDED.get(option, []) if group == "dataset" else []
        assert config.problems(composed([f"{group}={option}", *needed])) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["optim=adam", "+optim.maximize=true", "optim.fused=null"],
        ["model.padding=1", "model.stride=2", "model.pool_stride=1", "model.activation=tanh", "model.channels=[]"],
        ["model=gru", "+model.bias=false"],
        ["scheduler=multistep", "scheduler.milestones=[3,8]", "scheduler.interval=step"],
        ["scheduler=plateau", "scheduler.monitor=val/accuracy", "scheduler.mode=max", "scheduler.min_lr=[0.1]"],
        ["scheduler=onecycle", "scheduler.max_lr=1", "scheduler.base_momentum=[0.5]"],
        ["dataset=table", *NEEDED["table"], "trainer.checkpoint.monitor=val/r2"],
        ["dataset=table", *NEEDED["table"], "trainer.checkpoint.monitor=val/f1"],
        ["loss.label_smoothing=0.1", "+loss.weight={_target_:torch.tensor,data:[1.0,2.0]}"],
        ["+loss.weight=[1,8]"],
        ["loss=bce_with_logits", "+loss.pos_weight=[1,8]"],
        ["dataset=table", *NEEDED["table"], "+loss.weight=[1,8]", "+loss.ignore_index=0"],
        ["dataset=shards", "dataset.root=.", "+loss.weight=[1,8]"],
        ["optim.lr=0", "optim.weight_decay=1e-4", "trainer.clip_norm=1", "device=cuda:1"],
        ["dataset.augment={crop:1,flip:true}", "dataset.limit=null", "model.dropout=${penalty.l1}"],
        ["dataset.augment.crop=1", "dataset.augment.brightness=0.5", "dataset.val_fraction=0.2"],
        ["dataset.augment=null", "trainer.early_stopping={patience:2,min_delta:0.1}", "trainer.accumulate=32"],
        ["optim.lr=${trainer.epochs}", "model.channels=[${data.num_outputs},16]"],
        ["loss._target_=torch.nn.MultiMarginLoss", "+loss.p=2", "~loss.label_smoothing"],
    ],
    ids=lambda overrides: " ".join(overrides)[:60],
)
def test_what_works_passes(composed, overrides):
    assert config.problems(composed(overrides)) == []


MODELS = [
    {"_target_": "torchvision.models.resnet34", "num_classes": "${data.num_outputs}"},
    {
        "_target_": "torch.nn.Sequential",
        "_args_": [
            {"_target_": "torch.nn.Flatten"},
            {"_target_": "torch.nn.Linear", "in_features": 64, "out_features": "${data.num_outputs}"},
        ],
    },
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["_target_"])
def test_a_model_of_torch_or_torchvision_passes(composed, model):
    cfg = composed([])
    with open_dict(cfg):
        cfg.model = model
    assert config.problems(cfg) == []


@pytest.mark.parametrize("name", TARGETS)
def test_the_signature_read_from_the_file_is_the_one_that_python_has(name):
    """Names, order, which are required, and constants given as defaults, of every target under conf/."""
    found = source.find(name)
    assert isinstance(found, source.Definition)
    value = get_object(name)
    real, read = inspect.signature(value), source.signature(found)
    assert read is not None
    expanded = [one for one in read.parameters if one in real.parameters]
    assert expanded == [one.name for one in real.parameters.values() if one.kind is not one.VAR_KEYWORD]
    for one in (real.parameters[name] for name in expanded):
        default = read.parameters[one.name].default
        assert (default is inspect.Parameter.empty) == (one.default is inspect.Parameter.empty)
        assert default in (..., one.default)
    if inspect.isclass(value):
        bases = [f"{base.__module__}.{base.__qualname__}" for base in value.__mro__]
        bases = [base for base in bases if base.partition(".")[0] in source.READ]
        assert [base.name for base in source.bases(found)][: len(bases)] == bases


@pytest.mark.parametrize("name", ["digits", "diabetes", "sunspots"])
def test_what_a_data_set_states_is_what_it_turns_out_to_be(name):
    target = f"dltrain.data.bundled.{name}"
    make = get_object(target)
    stated = source.decoration(source.find(target), "Stated")
    assert stated_by(make) == Stated(**stated)
    facts = make().facts
    assert (facts.task, len(facts.class_names) or None) == (stated["task"], stated.get("classes"))
    assert make(val_fraction=0).val is None


def test_the_names_known_without_torch_are_those_of_the_modules_that_have_it():
    assert list(get_args(Activation)) == list(ACTIVATIONS)
    cpu = torch.device("cpu")
    many, few = (ClassificationMetrics(Facts("", "classification", "table", (1,), count), cpu) for count in (20, 10))
    assert many.names == NAMES["classification"]
    assert set(NAMES["classification"]) - set(few.names) == {"top5_accuracy"}
    assert RegressionMetrics(Facts("", "regression", "table", (1,), 1), cpu).names == NAMES["regression"]


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in limits.LIMITS for name in limits.LIMITS[group]])
def test_every_limit_is_of_an_argument_that_there_is(group, name):
    """Of a target under conf/ or of another optimizer or scheduler of torch: no rule is left over from a typo."""
    others = [f"torch.optim.{each}" for each in ("Adadelta", "ASGD")]
    others += [f"torch.optim.lr_scheduler.{each}" for each in ("CosineAnnealingWarmRestarts", "LinearLR")]
    others += ["torch.nn.SmoothL1Loss", "torch.nn.MSELoss", "optuna.pruners.PercentilePruner"]
    signatures = (source.signature(source.find(target)) for target in [*TARGETS, *others])
    assert any(name in signature.parameters for signature in signatures if signature)


@pytest.mark.parametrize(
    ("value", "wanted", "fitting"),
    [
        (1, float, True),
        (True, float, False),
        (1.0, int, False),
        (1, bool, False),
        ("a", str, True),
        (None, int | None, True),
        ([1, 2], tuple[float, float], True),
        ([1, 2, 3], tuple[float, float], False),
        ([1, "a"], list[int], False),
        ([1], source.Sequence[int], True),
        ("abc", source.Sequence[str], False),
        ({"a": 1}, dict[str, int], True),
        ({"_target_": "x"}, int, True),
        (LATER, int, True),
        ("x", source.Tensor, False),
        ([1, 2.5], source.Tensor | None, True),
        ([[1, 2], [3, 4]], torch.Tensor, True),
        ([[1, 2], [3]], torch.Tensor, False),
        ([1, "a"], torch.Tensor | None, False),
        ([], torch.Tensor, False),
        (8, torch.Tensor, False),
        ([0.1], float | source.Tensor, False),  # as lr of an optimizer: a tensor there is one number
        ("x", torch.nn.Module, True),
        ("x", source.Any, True),
    ],
)
def test_a_value_fits_its_annotation(value, wanted, fitting):
    assert fits(value, wanted) is fitting


def test_rules_and_types_in_words():
    assert described(int | None) == "a whole number or null"
    assert described(tuple[float, float]) == "a list of 2, each a number"
    assert described(source.Tensor | None) == "null or a list of numbers, for example [1.0,2.0]"
    assert str(Number(0, 2**32, whole=True)) == "a whole number of at least 0 and below 4294967296"
    assert str(Either(Number(1, whole=True), Choice(("same",)))) == "a whole number of at least 1, or same"
    assert (
        str(Many(Number(0), rising=True))
        == "a list in brackets, each a number of at least 0, each above the one before"
    )


def test_lines_of_a_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# header\na: 1\nb:\n  c: [1, 2]\n  d:\n    e: x\n")
    assert key_lines(path) == {("a",): 2, ("b",): 3, ("b", "c"): 4, ("b", "d"): 5, ("b", "d", "e"): 6}
    assert file_problems(path) == []
    path.write_text("a: {b: 1, b: 2}\nc:\n- d: 1\n  d: 2\n")
    assert [problem.partition(", ")[2].partition(":")[0] for problem in file_problems(path)] == ["line 1", "line 4"]
    path.write_bytes("a: é".encode("latin-1"))
    assert "UTF-8" in file_problems(path)[0]


def test_the_configuration_that_a_run_wrote_passes(dltrain, tmp_path):
    run = dltrain("scheduler=plateau", "trainer.epochs=1", "dataset.limit=16", "dataset=sunspots")
    config.check(OmegaConf.load(run.folder / "config.yaml"))


def test_facts_of_the_data_are_not_checked_before_they_are_known(composed):
    cfg = composed(["scheduler=cosine", "+model.extra=${data.name}"])
    (problem,) = config.problems(cfg)
    assert problem.key == "model.extra"
    with pytest.raises(ConfigError, match="has no argument extra"):
        config.check(cfg)
    assert json.dumps(OmegaConf.to_container(cfg.data)).count("null") == len(cfg.data)  # the check leaves it as it is


def test_a_search_path_without_a_folder_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["hydra.searchpath=[file://nowhere]", "trainer.epoch=3"]) == 2
    assert "there is no folder nowhere" in (text := capsys.readouterr().err)
    assert "trainer.epochs" in text
