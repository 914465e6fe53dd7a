"""Compose and check the configuration of a command, and collect what is wrong with it. Nothing else composes."""

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice, product
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dltrain import config
from dltrain.config import session, sweeps, translate
from dltrain.config.command_line import Flags, chooses, problem_of, unknown_of_hydra
from dltrain.config.loader import UNAPPLIED, Loader, note_overrides
from dltrain.config.origins import Origins, config_name, file_of
from dltrain.errors import ConfigError, UserError, did_you_mean
from dltrain.system.process import collection_paused


class Composer:
    """Composes the run that ``flags`` ask for, or a sweep and each of its jobs.

    Hydra reads some twenty files for a configuration, so a run is composed once, and a sweep once a choice of options.

    Raises:
        UserError: there is no such folder or primary file.
        ConfigError: the primary file cannot be read.
    """

    def __init__(self, flags: Flags):
        self.name = config_name(flags)
        self.flags = flags
        self.loader = Loader.of(flags.config_dir)
        self.problems: list[str] = []
        self._parser = OverridesParser.create(self.loader)
        self._parsed_once: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._sweep: DictConfig | None = None
        self.overrides = self._parsed(flags.overrides)
        self.repository = self._repository()
        self.origins = Origins(self.repository, self.overrides)

    def __call__(self, each_job: bool = False) -> DictConfig:
        """The configuration of the run, checked, or that of the sweep as a whole.

        Of a sweep the jobs are checked, of a very large one the first. It is in order if some jobs can run, unless
        ``each_job`` must be or it stops at its first failure: the others will be among those that have failed.

        Raises:
            ConfigError: every problem of the configuration, in one list.
        """
        return self._whole_sweep(each_job) if self.flags.sweeps else self._run()

    def _run(self) -> DictConfig:
        with collection_paused():
            cfg = self._composed(self._right(self.overrides))
        if cfg is not None and cfg.hydra.mode not in (None, RunMode.RUN):
            self.problems.append("hydra.mode: a sweep is asked for on the command line, dltrain -m")
        self._raise_problems()
        assert cfg is not None
        if cfg.hydra.mode is None:
            cfg.hydra.mode = RunMode.RUN
            cfg.hydra.overrides.hydra.append("hydra.mode=RUN")
        return cfg

    def _whole_sweep(self, each_job: bool) -> DictConfig:
        with contextlib.suppress(Exception):  # what is wrong comes up again with the jobs
            self._sweep = self._as_a_whole()
        whole, given = self._sweep, self.overrides
        if whole is not None:
            given = [each for each in given if not each.is_hydra_override()]
            self.problems += sweeps.sharing_a_folder(whole, self.overrides)
        if whole is not None and sweeps.is_basic(whole):
            given = [*self._parsed(sweeps.params(whole)), *given]
            self.problems += [sweeps.interval(override) for override in given if override.is_interval_sweep()]
            self._check_jobs(given, each_job or OmegaConf.select(whole, "sweep.on_failure") == "stop")
        else:
            self._check_jobs(given, each_job)
            self.problems = [sweeps.for_interval(problem, given) for problem in self.problems]
        self._raise_problems()
        if self._sweep is None:
            with _translated():
                self._sweep = self._as_a_whole()
        return self._sweep

    def job(self, texts: Sequence[str]) -> DictConfig:
        """The configuration of the job of the sweep with these overrides, checked.

        Raises:
            ConfigError: it cannot be composed, or is wrong.
        """
        assert self._sweep is not None
        given = [self._override(text) for text in texts]
        problems: list[str] = []
        with _translated():
            cfg = self._with(given)
        unknown = [each for each in given if not self._chooses(each) and not self._apply(each, cfg, problems)]
        if problems:
            raise ConfigError(problems)
        note_overrides(cfg, given)
        OmegaConf.copy_cache(from_config=self._sweep, to_config=cfg)
        config.check(cfg)
        if unknown:
            raise ConfigError(map(translate.unadded, unknown))
        return cfg

    def jobs(self) -> list[tuple[str, ...]]:
        """The jobs of the sweep by their overrides, as its sweeper makes and orders them.

        Raises:
            UserError: the sweeper chooses them as it goes.
        """
        whole = self._sweep
        assert whole is not None
        if not sweeps.is_basic(whole):
            raise UserError(
                f"check -m lists the jobs that commas make; {whole.hydra.sweeper._target_} chooses them as it goes"
            )
        typed = [override for override in self.overrides if not override.is_hydra_override()]
        return list(product(*sweeps.choices([*self._parsed(sweeps.params(whole)), *typed])))

    def _raise_problems(self) -> None:
        if self.problems:
            raise ConfigError(dict.fromkeys(self.problems))

    def _as_a_whole(self) -> DictConfig:
        texts = [str(override.input_line) for override in self.overrides]
        mode = [] if "hydra.mode=MULTIRUN" in texts else ["hydra.mode=MULTIRUN"]
        with _no_warnings():
            return self.loader.load_configuration(self.name, [*texts, *mode], RunMode.MULTIRUN)

    def _override(self, text: str) -> Override:
        if text not in self._parsed_once:
            (self._parsed_once[text],) = self._parser.parse_overrides([text])
        return self._parsed_once[text]

    def _parsed(self, texts: Sequence[str]) -> list[Override]:
        if spaced := translate.spaced(texts):
            self.problems.append(spaced)
            return []
        parsed = []
        for text in texts:
            if deep := translate.too_deep(text):
                self.problems.append(deep)
                continue
            try:
                override = self._override(text)
            except (HydraException, ValueError):
                self.problems.append(translate.grammar(text))
                continue
            if impossible := sweeps.impossible(override):
                self.problems.append(impossible)
            elif override.is_sweep_override() and not self.flags.sweeps:
                self.problems.append(translate.unswept(override))
            else:
                parsed.append(override)
        return parsed

    def _repository(self) -> Any:
        names = self.loader.repository.get_group_options("", ObjectType.CONFIG)
        if not self.loader.repository.config_exists(self.name):
            hint = did_you_mean(self.name, names) or "; --config-dir adds a folder to them"
            raise UserError(
                f"--config-name={self.name}: there is no {self.name}.yaml in the configuration folders{hint}"
            )
        try:
            with _no_warnings():
                repository = self.loader._parse_overrides_and_create_caching_repo(self.name, self._searched())[1]
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError, AttributeError) as error:
            raise ConfigError([*self.problems, *translate.translated(error)]) from error
        missing = [source.path for source in repository.get_sources() if not source.available() and source.path]
        self.problems += [f"hydra.searchpath: there is no folder {path}" for path in missing]
        return repository

    def _searched(self) -> list[str]:
        """The override that names further folders: every composition needs it."""
        return [each.input_line or "" for each in self.overrides if each.key_or_group == "hydra.searchpath"]

    def _chooses(self, override: Override) -> bool:
        return chooses(override, self.repository)

    def _right(self, given: Sequence[Override]) -> list[Override]:
        """The overrides that are right by themselves; wrong ones are noted."""
        right = []
        for override in given:
            if problem := problem_of(override, self.repository):
                self.problems.append(f"{override.input_line} (command line): {problem}")
            else:
                right.append(override)
        return right

    def _composed(self, given: Sequence[Override]) -> DictConfig | None:
        """The configuration with the overrides, checked; ``None`` where it cannot be composed, which is noted.

        Hydra stops at the first override that it cannot apply. Here they are applied one by one, unknown keys too, so
        that the check of the whole names all that is wrong.
        """
        options = [override for override in given if self._chooses(override)]
        values = [override for override in given if override not in options]
        try:
            cfg = self._with(given)
        except Exception:  # Hydra raises many kinds; what is nobody's mistake is raised again
            if (base := self._with_options(options)) is not None:
                self._apply_all(values, base)
            if not self.problems:
                raise
            return None
        self._apply_all([value for value in values if not value.is_hydra_override()], cfg)
        note_overrides(cfg, [override for override in given if not override.is_hydra_override()])
        return cfg

    def _with(self, given: Sequence[Override]) -> DictConfig:
        """The configuration with the options among ``given``, and with what is typed for Hydra itself.

        Composing takes ten times as long as giving keys their values, so a sweep does it once for the same options.
        """
        chosen = tuple(sweeps.first(each) for each in given if self._chooses(each) or each.is_hydra_override())
        if chosen not in self._bases:
            if self._sweep is None:
                self._bases[chosen] = self._load(chosen)
            else:
                with _no_warnings():
                    self._bases[chosen] = self.loader.load_sweep_config(self._sweep, list(chosen))
        self._from(chosen)
        return copy.deepcopy(self._bases[chosen]) if self.flags.sweeps else self._bases[chosen]

    def _load(self, texts: Sequence[str]) -> DictConfig:
        with _no_warnings():
            cfg = self.loader.load_configuration(self.name, list(texts), RunMode.RUN)
        self._from(texts)
        return cfg

    def _from(self, texts: Sequence[str]) -> None:
        """Values come from the files of the options among these overrides, if somebody asks."""
        composed = [*(text for text in texts if self._chooses(self._override(text))), *self._searched()]

        def defaults() -> Sequence[Any]:
            with _no_warnings():
                return self.loader.compute_defaults_list(self.name, composed, RunMode.RUN).defaults

        self.origins.composed_from(defaults)

    def _with_options(self, groups: list[Override]) -> DictConfig | None:
        """The configuration with those options whose files can be composed; what is wrong with the others is noted."""
        texts = [sweeps.first(group) for group in groups]
        with contextlib.suppress(Exception):
            return self._load([*texts, *self._searched()])
        kept: list[str] = []
        cfg = None
        for override, text in ((None, ""), *zip(groups, texts, strict=True)):
            tried = [*kept, text] if override else kept
            try:
                cfg = self._load([*tried, *self._searched()])
                kept = tried
            except Exception as error:  # ValueError, AttributeError and others besides Hydra's own, for odd files
                if not self._note_unreadable(override, error):
                    raise
        return cfg

    def _note_unreadable(self, override: Override | None, error: Exception) -> bool:
        """Note what is wrong with the files of an option, or of the primary file; false where it is no such error."""
        name, value = (f"{override.key_or_group}/", override.value()) if override else ("", self.name)
        path = file_of(self.repository, f"{name}{value}") if isinstance(value, str) else None
        if path is not None and path.is_file():
            self.problems += translate.in_file(path, error, self.repository.get_group_options("", ObjectType.GROUP))
        elif translate.is_composition_error(error) or isinstance(error, ValueError):
            self.problems += translate.translated(error)
        else:
            return False
        return True

    def _apply_all(self, values: Sequence[Override], cfg: DictConfig) -> None:
        unknown = [override for override in values if not self._apply(override, cfg, self.problems)]
        before = set(self.problems)
        self._check(cfg)
        new = [text for text in self.problems if text not in before]
        for override in unknown:
            name = override.key_or_group
            outer = name.rpartition(".")[0]
            starts = (f"{name}=", f"{name}.", f"{name} ", f"{outer}=")
            if not any(text.startswith(starts) for text in new):
                self.problems.append(translate.unadded(override))

    def _apply(self, override: Override, cfg: DictConfig, problems: list[str]) -> bool:
        """Apply the override to ``cfg``; false where the key was not there and had to be added."""
        single = self._override(sweeps.first(override))
        try:
            Loader._apply_overrides_to_config([single], cfg)
        except UNAPPLIED as error:
            if single.is_hydra_override() or single.is_delete() or "already at" in str(error):
                hydra = unknown_of_hydra(single, cfg) if single.is_hydra_override() else ""
                problems.append(hydra or translate.unapplied(override, error, cfg))
                return True
            unknown = "Could not override" in str(error)
            with open_dict(cfg):  # so that the check of the whole sees the key, or the value of a wrong kind
                OmegaConf.update(cfg, single.key_or_group, single.value(), merge=unknown, force_add=True)
            return not unknown
        return True

    def _check(self, cfg: DictConfig) -> None:
        try:
            config.check(cfg, self.origins)
        except ConfigError as error:
            self.problems += self.origins.hidden_headers() or error.problems

    def _check_jobs(self, given: Sequence[Override], each: bool) -> None:
        """Note what is wrong with the jobs, if it is so with all of them, or if ``each`` must be in order.

        Every combination of values is tried, and where there are very many, each value in one of them.
        """
        swept = [override for override in given if override.is_sweep_override()]
        empty = [override for override in swept if not any(sweeps.values(override))]
        for override in empty:
            why = problem_of(override, self.repository) or "this names no value"
            self.problems.append(f"{override.input_line} (command line): {why}")
        choices = sweeps.choices([override for override in given if override not in empty], sweeps.TRIED)
        first = [texts[0] for texts in choices]
        problems = self._problems_of(first)
        if not problems and not each:  # the sweep can begin, and the launcher looks at each of its jobs
            return
        last = self._problems_of([texts[-1] for texts in choices])
        if swept and set(problems) & set(last):  # whatever the values: there is no need to look at each
            self.problems += dict.fromkeys([*problems, *last])
            return
        singly = [(*first[:n], text, *first[n + 1 :]) for n, texts in enumerate(choices) for text in texts[1:]]
        jobs = dict.fromkeys([*islice(product(*choices), sweeps.TRIED), *singly])
        jobs_of: dict[str, list[int]] = {}
        for number, job in enumerate(jobs):
            problems = self._problems_of(job)
            if not problems and not each:
                return
            for text in problems:
                jobs_of.setdefault(text, []).append(number)
        self.problems += [sweeps.of_jobs(text, numbers, list(jobs)) for text, numbers in jobs_of.items()]

    def _problems_of(self, texts: Sequence[str]) -> list[str]:
        """Return what is wrong with the job of these overrides."""
        before, self.problems = self.problems, []
        self._composed(self._right([self._override(text) for text in texts]))
        problems, self.problems = self.problems, before
        return list(dict.fromkeys(problems))


def show(flags: Flags) -> None:
    """Print what flags of Hydra's ask for.

    Raises:
        ConfigError: every problem of the configuration, where Hydra names the first.
    """
    try:
        session.show(flags, config_name(flags), Loader.of(flags.config_dir))
    except (BrokenPipeError, UserError):
        raise
    except Exception:
        Composer(flags)()
        raise


@contextmanager
def _translated() -> Iterator[None]:
    """Within, Hydra's errors of a configuration are raised in dltrain's words."""
    try:
        yield
    except Exception as error:
        if (explanation := translate.explained(error)) is error:
            raise
        raise explanation from error


def _no_warnings() -> AbstractContextManager[object]:
    """Hydra warns of a folder that it does not find; here that is a problem among the others."""
    return warnings.catch_warnings(action="ignore")
