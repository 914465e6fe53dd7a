"""Jobs of a sweep are composed as single runs are: what is typed twice, added, taken out, in quotes, for one option."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dltrain.config import sweeps
from dltrain.config.command_line import parse_flags
from dltrain.config.compose import Composer
from dltrain.config.hydra_internals import ConfigLoaderImpl
from dltrain.config.session import hydra_session
from dltrain.errors import ConfigError
from dltrain.sweep.ledger import Job, key_of
from dltrain.sweep.start import Combinations


def _words(case):
    return " ".join(map(str, case)) if isinstance(case, list) else str(case)


def composer_of(*arguments):
    return Composer(parse_flags(arguments))


def composed_jobs(*arguments):
    """The jobs of ``dltrain -m`` with these arguments: their overrides, and their configurations or what is wrong."""
    found = []
    with hydra_session():
        composer = composer_of("-m", *arguments)
        whole = composer._sweep = composer._as_a_whole()  # of which no job has been checked
        assert OmegaConf.to_container(whole.hydra.overrides.task, resolve=False) == list(arguments)
        (jobs,) = Combinations().batches(OverridesParser.create().parse_overrides(list(arguments)))
        for job in jobs:
            try:
                found.append((job, composer.job(job)))
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
    jobs = composed_jobs(*typed, "seed=1,2")
    assert len(jobs) == 2
    for seed, (_, config) in enumerate(jobs, 1):
        assert not isinstance(config, str), config
        with initialize_config_module("dltrain.conf", version_base=None):
            alone = compose("config", [*typed, f"seed={seed}"])
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
        with hydra_session(), pytest.raises(ConfigError, match="has no argument hiden_size"):
            composer_of("-m", "model=lstm,gru", "model.hiden_size=8", *sweeper)()
        with hydra_session(), pytest.raises(ConfigError, match=r"write it with a plus sign, \+loss\.weight=\[1,8\]"):
            composer_of("-m", "seed=1,2", "loss.weight=[1,8]", *sweeper)()


@pytest.fixture
def composed(monkeypatch):
    """How often Hydra has composed a configuration, as the overrides of each time."""
    times = []
    compose_files = ConfigLoaderImpl._load_configuration_impl

    def counted(self, config_name, overrides, *others, **further):
        times.append(overrides)
        return compose_files(self, config_name, overrides, *others, **further)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    return times


@pytest.mark.parametrize("verb", [[], ["check"]], ids=" ".join)
def test_a_run_is_composed_once(dltrain, composed, verb):
    outcome = dltrain(*verb, "model=mlp", "optim=adam", "optim.lr=0.01", "trainer.epochs=1", "dataset.limit=16")
    assert outcome.code == 0, outcome.stderr
    assert len(composed) == 1


def test_a_sweep_is_composed_as_a_whole_and_once_for_each_choice_of_options(composed):
    with hydra_session():
        composer = composer_of("-m", "model=mlp,cnn", "optim.lr=0.1,0.2,0.3", "seed=1,2")
        composer(each_job=True)
        jobs = [composer.job(job) for job in composer.jobs()]
    assert len({(job.model._target_, job.optim.lr, job.seed) for job in jobs}) == 12
    assert len(composed) == 3


def test_a_wrong_override_costs_no_second_composition(dltrain, composed):
    assert dltrain("optim.lr=-1", "trainer.epochs=0").code == 2
    assert len(composed) == 1
