"""Jobs of a sweep are composed as single runs are: what is typed twice, added, taken out, in quotes, for one option."""

from pathlib import Path

import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from dltrain.config import sweeps
from dltrain.config.command import check_command
from dltrain.errors import ConfigError
from dltrain.sweep.combinations import Combinations
from dltrain.sweep.composer import Composer, SweepLoader
from dltrain.sweep.ledger import Job, key_of


def _words(case):
    return " ".join(map(str, case)) if isinstance(case, list) else str(case)


def composed_jobs(*arguments):
    """The jobs of ``dltrain -m`` with these arguments: their overrides, and their configurations or what is wrong."""
    setup_globals()
    OmegaConf.register_new_resolver("dltrain_unique", lambda: "test", use_cache=True, replace=True)
    loader = SweepLoader(create_automatic_config_search_path(None, None, "pkg://dltrain.conf"))
    master = loader.load_configuration("config", list(arguments), RunMode.MULTIRUN)
    assert OmegaConf.to_container(master.hydra.overrides.task, resolve=False) == list(arguments)
    compose = Composer(HydraContext(config_loader=loader, callbacks=Callbacks()), master)
    (jobs,) = Combinations.split_arguments(OverridesParser.create().parse_overrides(list(arguments)), None)
    found = []
    for job in jobs:
        try:
            found.append((job, compose(job)))
        except ConfigError as error:
            found.append((job, str(error)))
    return found


def without_hydra(config):
    return OmegaConf.to_container(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))


@pytest.mark.parametrize(
    "typed",
    [
        ["penalty={l1:0.001}", "penalty={l2:0.01}"],
        ["penalty={l1:0.1}", "penalty.l1=0.5", "penalty={l1:0.2}"],
        ["penalty={l1:0.1}", "penalty.l1=0.5", "++penalty={l2:0.2}", "penalty={l2:0.3}"],
        ["optim.lr=0.1", "optim={lr:0.2}", "optim.lr=0.3"],
        ["model=lstm", "model=gru", "model.hidden_size=8"],
        ["optim={lr:0.1}", "optim=adam"],
        ["+loss.weight=[1,8]", "+optim.maximize=true", "++optim.foreach=false"],
        ["+loss={weight:[1,8]}", "+loss={ignore_index:0}"],
        ["~loss.label_smoothing"],
        ["~loss.label_smoothing=0.0", "+loss.label_smoothing=0.1"],
        ["~loss.label_smoothing", "+loss.label_smoothing=0.1", "loss.label_smoothing=0.2"],
        ["logger=[csv,tensorboard]", "logger=[]", "trust=[a,'b,c']"],
        ["resume='it\\'s, here'"],
        ["resume=str(3)"],
        ['resume="a b: {c}"'],
        ["resume=a\\,b"],
        ["resume=${device}", "device='cpu'"],
        ["scheduler=lambda", "scheduler.lr_lambda='1 - epoch / 31'", "trainer.epochs=int(30.0)"],
    ],
    ids=" ".join,
)
def test_a_job_is_composed_as_a_single_run_is(typed):
    loader = ConfigLoaderImpl(create_automatic_config_search_path(None, None, "pkg://dltrain.conf"))
    jobs = composed_jobs(*typed, "seed=1,2")
    assert len(jobs) == 2
    for seed, (_, config) in enumerate(jobs, 1):
        assert not isinstance(config, str), config
        alone = loader.load_configuration("config", [*typed, f"seed={seed}"], RunMode.RUN)
        assert without_hydra(config) == without_hydra(alone)


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        (["penalty={l1:1},{l1:2}", "penalty={l2:3}"], [{"l1": 1, "l2": 3}, {"l1": 2, "l2": 3}]),
        (["penalty={l2:3}", "penalty={l1:1},{l1:2}"], [{"l1": 1, "l2": 3}, {"l1": 2, "l2": 3}]),
        (
            ["penalty={l1:1},{l1:2}", "penalty={l2:3},{l2:4}"],
            [{"l1": one, "l2": two} for one in (1, 2) for two in (3, 4)],
        ),
        (["penalty.l1=1,2", "penalty.l1=3"], [{"l1": 3, "l2": 0.0}]),
        (["penalty.l1=3", "penalty.l1=1,2"], [{"l1": 1, "l2": 0.0}, {"l1": 2, "l2": 0.0}]),
    ],
    ids=_words,
)
def test_a_key_that_is_typed_again_adds_a_dictionary_and_replaces_what_is_none(typed, values):
    jobs = composed_jobs(*typed)
    assert [OmegaConf.to_container(config.penalty) for _, config in jobs] == values
    assert len({key_of(overrides) for overrides, _ in jobs}) == len(values)
    shown = [Job(0, tuple(overrides), Path()).settings for overrides, _ in jobs]
    assert len({tuple(settings.items()) for settings in shown}) == len(values)


@pytest.mark.parametrize(
    ("typed", "texts"),
    [
        ("resume=choice('a\\'b',c)", ["resume='a\\'b'", "resume=c"]),
        ("resume=str(1,2)", ["resume='1'", "resume='2'"]),
        ("resume='x,y',\"it's\"", ["resume='x,y'", 'resume="it\'s"']),
        ("seed=range(1,4)", ["seed=1", "seed=2", "seed=3"]),
    ],
)
def test_each_value_is_typed_so_that_it_is_read_as_it_was(typed, texts):
    (override,) = OverridesParser.create().parse_overrides([typed])
    assert list(sweeps.values(override)) == texts
    read = [one.value() for one in OverridesParser.create().parse_overrides(texts)]
    assert read == [getattr(value, "text", value) for value in override.sweep_iterator()]


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        (["model=lstm,gru", "model.hidden_size=8"], "model.hidden_size", 8),
        (["optim=adam,adamw", "optim.betas=[0.8,0.99]"], "optim.betas", [0.8, 0.99]),
        (["scheduler=step,multistep", "scheduler.gamma=0.5"], "scheduler.gamma", 0.5),
        (["scheduler=step,multistep", "~scheduler.gamma"], "scheduler.gamma", None),
        (["dataset=digits,sunspots", "dataset.window=8"], "dataset.window", 8),
        (["experiment=sunspots_gru", "seed=1,2", "model.hidden_size=8"], "model.hidden_size", 8),
    ],
    ids=_words,
)
def test_a_key_may_be_one_of_the_options_that_are_swept(typed, key, value):
    jobs = composed_jobs(*typed)
    assert len(jobs) == 2
    fine = [config for _, config in jobs if not isinstance(config, str)]
    assert fine
    assert all(OmegaConf.select(config, key) == value for config in fine)


def test_a_key_that_no_option_has_is_refused_before_the_sweep():
    for sweeper in ([], ["hydra/sweeper=optuna"]):
        with pytest.raises(ConfigError, match="has no argument hiden_size"):
            check_command(["-m", "model=lstm,gru", "model.hiden_size=8", *sweeper])
        with pytest.raises(ConfigError, match=r"write it with a plus sign, \+loss\.weight=\[1,8\]"):
            check_command(["-m", "seed=1,2", "loss.weight=[1,8]", *sweeper])
