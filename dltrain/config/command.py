"""One command's configuration: composed, checked, and told what is wrong with it."""

import argparse
import contextlib
import copy
import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import islice, product
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dltrain import config
from dltrain.config import overrides, sweeps, translate
from dltrain.config.flags import parse_flags
from dltrain.config.origins import Origins, file_of
from dltrain.errors import ConfigError, UserError, did_you_mean


def check_command(arguments: Sequence[str], each_job: bool = False) -> None:
    """Compose what ``arguments`` ask for and check it; for a sweep, each of its jobs, of a very large one the first.

    A sweep of which some jobs can run is in order, unless ``each_job`` must be or it stops at its first failure: the
    others will be among those that have failed.

    Raises:
        UserError: a flag is wrong.
        ConfigError: every problem of the configuration, in one list.
    """
    _Command(parse_flags(arguments)).check(each_job)


class _Command:
    def __init__(self, flags: argparse.Namespace):
        version.setbase(None)
        setup_globals()
        self.name = flags.config_name or "config"
        self.sweep = bool(flags.multirun) or "hydra.mode=MULTIRUN" in flags.overrides
        self.loader = loader_of(flags.config_dir)
        self.problems: list[str] = []
        self._parsed_once: dict[str, Override] = {}
        self._composed_once: dict[tuple[str, ...], DictConfig] = {}
        self.overrides = self._parsed(flags.overrides)
        self.repository = self._repository()
        self.origins = Origins(self.repository, self.overrides)

    def check(self, each_job: bool) -> None:
        steering = self._steering() if self.sweep else None
        if steering is not None:
            self.problems += sweeps.sharing_a_folder(steering, self.overrides)
        if steering is not None and sweeps.is_basic(steering):
            given = [*self._parsed(sweeps.params(steering)), *self.overrides]
            self.problems += [sweeps.interval(one) for one in given if one.is_interval_sweep()]
            self._check_jobs(given, each_job or steering.sweep.on_failure == "stop")
        else:
            if steering is None:
                self._composed(*self._sorted(self.overrides))
            else:
                self._check_jobs(self.overrides, each_job)
            self.problems = [sweeps.for_interval(one, self.overrides) for one in self.problems]
        if self.problems:
            raise ConfigError(dict.fromkeys(self.problems))

    def _steering(self) -> DictConfig | None:
        """The configuration as far as it concerns the sweep as a whole; ``None`` where it cannot be composed."""
        fixed = [one for one in self.overrides if not one.is_sweep_override()]
        groups = [one for one in fixed if overrides.chooses(one, self.repository)]
        steers = [one for one in fixed if one not in groups and one.key_or_group.startswith(("hydra.", "sweep."))]
        with contextlib.suppress(Exception):  # what is wrong is found again, and told, with the jobs
            return self._load(groups, [one.input_line or "" for one in steers])
        return None

    def _parsed(self, texts: Sequence[str]) -> list[Override]:
        if spaced := translate.spaced(texts):
            self.problems.append(spaced)
            return []
        parser = OverridesParser.create(self.loader)
        found = []
        for text in texts:
            if deep := translate.too_deep(text):
                self.problems.append(deep)
                continue
            try:
                (override,) = parser.parse_overrides([text])
            except (HydraException, ValueError):
                self.problems.append(translate.grammar(text))
                continue
            if impossible := sweeps.impossible(override):
                self.problems.append(impossible)
            elif override.is_sweep_override() and not self.sweep:
                self.problems.append(translate.unswept(override))
            else:
                found.append(override)
        return found

    def _repository(self) -> Any:
        names = self.loader.repository.get_group_options("", ObjectType.CONFIG)
        if not self.loader.repository.config_exists(self.name):
            hint = did_you_mean(self.name, names) or "; --config-dir names one more folder of them"
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
        return [one.input_line or "" for one in self.overrides if one.key_or_group == "hydra.searchpath"]

    def _sorted(self, given: Sequence[Override]) -> tuple[list[Override], list[Override]]:
        """Overrides that choose an option of a group, and those that give a key its value; wrong ones are noted."""
        groups: list[Override] = []
        values: list[Override] = []
        for override in given:
            chooses = overrides.chooses(override, self.repository)
            if problem := overrides.wrong(override, self.repository):
                self.problems.append(f"{override.input_line} (command line): {problem}")
            else:
                (groups if chooses else values).append(override)
        return groups, values

    def _composed(self, groups: list[Override], values: list[Override]) -> DictConfig | None:
        """The configuration with every override, checked; ``None`` where some could not be applied.

        Hydra stops at the first override that it cannot apply. Then they are applied one by one, unknown keys too, so
        that the check of the whole names all that is wrong.
        """
        try:
            cfg = self._load(groups, [sweeps.first(one) for one in values])
        except Exception:  # Hydra raises many kinds; what is nobody's mistake is raised again below
            if (base := self._with_options(groups)) is not None:
                self._apply_all(values, base)
            return None
        self._check(cfg)
        return cfg

    def _load(self, groups: Sequence[Override], values: Sequence[str] = ()) -> DictConfig:
        chosen = [sweeps.first(one) for one in groups]
        with _no_warnings():
            cfg = self.loader.load_configuration(self.name, [*chosen, *values], RunMode.RUN)
        self._from(chosen)
        return cfg

    def _from(self, chosen: Sequence[str]) -> None:
        """Values come from the files of these options, if somebody asks."""
        composed = [*chosen, *self._searched()]

        def defaults() -> Sequence[Any]:
            with _no_warnings():
                return self.loader.compute_defaults_list(self.name, composed, RunMode.RUN).defaults

        self.origins.composed_from(defaults)

    def _with_options(self, groups: list[Override]) -> DictConfig | None:
        """The configuration with those options whose files can be composed; what is wrong with the others is noted."""
        with contextlib.suppress(Exception):
            return self._load(groups, self._searched())
        kept: list[Override] = []
        cfg = None
        for override in (None, *groups):
            tried = [*kept, override] if override else kept
            try:
                cfg = self._load(tried, self._searched())
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

    def _apply_all(self, values: list[Override], cfg: DictConfig) -> None:
        unknown = [override for override in values if not self._apply(override, cfg)]
        before = set(self.problems)
        self._check(cfg)
        new = [text for text in self.problems if text not in before]
        for override in unknown:
            name = override.key_or_group
            outer = name.rpartition(".")[0]
            starts = (f"{name}=", f"{name}.", f"{name} ", f"{outer}=")
            if not any(text.startswith(starts) for text in new):
                self.problems.append(translate.unadded(override))

    def _apply(self, override: Override, cfg: DictConfig) -> bool:
        """Apply the override to ``cfg``; false where the key was not there and had to be added."""
        single = OverridesParser.create(self.loader).parse_override(sweeps.first(override))
        try:
            ConfigLoaderImpl._apply_overrides_to_config([single], cfg)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            if single.is_hydra_override() or single.is_delete() or "already at" in str(error):
                hydra = overrides.unknown_of_hydra(single, cfg) if single.is_hydra_override() else ""
                self.problems.append(hydra or translate.unapplied(override, error, cfg))
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
        swept = [one for one in given if one.is_sweep_override()]
        empty = [one for one in swept if not any(sweeps.values(one))]
        for one in empty:
            why = overrides.wrong(one, self.repository) or "this names no value"
            self.problems.append(f"{one.input_line} (command line): {why}")
        choices = sweeps.choices([one for one in given if one not in empty], sweeps.TRIED)
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
        found: dict[str, list[int]] = {}
        for number, job in enumerate(jobs):
            problems = self._problems_of(job)
            if not problems and not each:
                return
            for text in problems:
                found.setdefault(text, []).append(number)
        told = list(jobs)
        self.problems += [sweeps.of_jobs(text, numbers, told) for text, numbers in found.items()]

    def _problems_of(self, texts: Sequence[str]) -> list[str]:
        """What is wrong with the job of these overrides."""
        before, self.problems = self.problems, []
        groups, values = self._sorted([self._override(text) for text in texts])
        try:
            cfg = copy.deepcopy(self._with_groups(tuple(one.input_line or "" for one in groups)))
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        except Exception:  # composed once more, slowly, to find all that is wrong
            self._composed(groups, values)
        else:
            self._check(cfg)
        found, self.problems = self.problems, before
        return list(dict.fromkeys(found))

    def _override(self, text: str) -> Override:
        if text not in self._parsed_once:
            self._parsed_once[text] = OverridesParser.create(self.loader).parse_override(text)
        return self._parsed_once[text]

    def _with_groups(self, chosen: tuple[str, ...]) -> DictConfig:
        """The configuration with options alone: composing takes ten times as long as giving keys their values."""
        if chosen not in self._composed_once:
            self._composed_once[chosen] = self._load([self._override(text) for text in chosen], self._searched())
        self._from(chosen)
        return self._composed_once[chosen]


def _no_warnings() -> AbstractContextManager[object]:
    """Hydra warns of a folder that it does not find; here that is a problem among the others."""
    return warnings.catch_warnings(action="ignore")


def loader_of(folder: str | os.PathLike[str] | None) -> ConfigLoaderImpl:
    """What composes of dltrain's own files and those in ``folder``."""
    path = create_automatic_config_search_path(None, None, "pkg://dltrain.conf")
    if folder is not None:
        if not os.path.isdir(folder):
            raise UserError(f"--config-dir={folder}: there is no such folder")
        files = f"file://{os.path.abspath(folder)}"
        path.prepend("command-line", files, SearchPathQuery(provider="schema", path=None))
    return ConfigLoaderImpl(path)
