"""A trained network, loaded from its run, and its outputs as rows: where all that uses it begins."""

import copy
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from dltrain import config, losses
from dltrain.build.make import evaluation_batch_size, evaluation_loader, make, read_data
from dltrain.build.network import unfetched
from dltrain.config.earlier import locate_files, of_checkpoint, of_run, require_trusted
from dltrain.config.interpolation import escaped
from dltrain.data.base import Data, Facts, Fitted, NamedBatch
from dltrain.data.folders import part_folders
from dltrain.data.images.transforms import transform_of
from dltrain.data.loader import Loader
from dltrain.data.stored import require_consistent
from dltrain.distributed.process_group import ProcessGroup
from dltrain.errors import CheckpointError, DataError, MismatchError, UserError, did_you_mean
from dltrain.runs import checkpoint
from dltrain.runs.find import find_run, require_one_run, started_elsewhere
from dltrain.system.device import Precision, pick_device, pick_precision, random_states_restored
from dltrain.training.inference import Loss, predict
from dltrain.training.shapes import require_fitting

Split = Literal["train", "val", "test", "all"]
Columns = dict[str, type]  # name -> str, int or float
Row = list[Any]


@dataclass
class Loaded:
    """A run's network with its weights, in evaluation mode on its device, and what prepares its inputs."""

    folder: Path
    checkpoint: Path
    epoch: int
    cfg: Any  # with the overrides
    stored: Any  # the configuration that is stored with the run
    fitted: Fitted
    model: nn.Module
    loss: nn.Module
    transform: nn.Module
    precision: Precision

    @property
    def facts(self) -> Facts:
        return self.fitted.facts

    @property
    def batch_size(self) -> int:
        """Samples of an evaluation batch, as during the run."""
        return evaluation_batch_size(self.cfg, self.facts)

    @property
    def moved(self) -> bool:
        """Whether other files than the run's are to be read."""
        return any(self.cfg.dataset.get(key) != self.stored.dataset.get(key) for key in ("root", "path"))

    def data(self) -> Data:
        """The data set that the configuration names, prepared as the run's.

        Raises:
            ConfigError: its files are not there.
            DataError: the classes, the shape or the target differ from the run's.
        """
        config.require_files(self.cfg)
        data = read_data(self.cfg, self.fitted)
        _require_same(self.facts, data.facts)
        # A data set of the user's states no preprocessing, and does it itself.
        return replace(data, transform=self.transform) if self.fitted.preprocessing else data

    def loader(self, split: Split | None = None, process_group: ProcessGroup | None = None) -> tuple[Loader, Split]:
        """Batches of a part of the data, as the run evaluated them, and which part it is.

        A process of ``process_group`` gets its slice of each batch. By default it is the test part; of another file, or
        of another folder without ``test/``, all samples.

        Raises:
            UserError: there is no such part.
        """
        return replace(self, cfg=copy.deepcopy(self.cfg))._loader(split, process_group)

    def _loader(self, split: Split | None, process_group: ProcessGroup | None) -> tuple[Loader, Split]:
        """:meth:`loader`, which changes the configuration."""
        if self.moved and (folder := self._folder_of(split or "test")):
            self.cfg.dataset.root = escaped(str(folder))  # all of its samples are this part
            data, part, name = self._all(), "train", split or "test"
        elif split == "all" or (split is None and self.moved and self._can_take_all):
            data, part, name = self._all(), "train", "all"
        else:
            part = name = split or "test"
            data = self.data()
        samples = getattr(data, part)
        if samples is None:
            raise UserError(f"the run has no {name} part: dataset.{name}_fraction is 0; split=train|val|test|all")
        return evaluation_loader(samples, data, self.cfg, self.precision.device, process_group), name

    @property
    def _can_take_all(self) -> bool:
        return "val_fraction" in self.cfg.dataset and "test_fraction" in self.cfg.dataset

    def _all(self) -> Data:
        apart = f"split=all: {self.facts.name} comes in parts; use split=train, val or test"
        if not self._can_take_all:
            raise UserError(apart)
        self.cfg.dataset.val_fraction = self.cfg.dataset.test_fraction = 0
        limit = self.cfg.dataset.get("limit")  # which data sets of the user's may lack
        if limit is not None and limit == self.stored.dataset.get("limit"):
            self.cfg.dataset.limit = None
        data = self.data()
        if data.val is not None or data.test is not None:  # of separate folders, which no fraction moves
            raise UserError(apart)
        return data

    def _folder_of(self, split: str) -> Path | None:
        root = Path(os.path.expanduser(str(self.cfg.dataset.get("root"))))
        return part_folders(root).get(split) if self._can_take_all and root.is_dir() else None


def load_run(name: str, overrides: Sequence[str] = (), measures: bool = False) -> Loaded:
    """Load ``name``, a run folder (its ``best.pt``) or a checkpoint file, with values replaced by ``overrides``.

    Only where it ``measures`` are the metrics of the group ``metric`` part of the configuration: their code need not be
    trusted for anything else.

    Raises:
        UserError: there is no such run, it has no checkpoint, or it cannot be read by this dltrain.
        ConfigError: an override that fits no key, or code of a package that is not in ``trust``.
    """
    folder, named = find_run(name)
    path = named or folder / "checkpoints" / "best.pt"
    if not path.exists():
        raise CheckpointError(f"'{name}' has no checkpoints/best.pt yet: it is written after the first epoch")
    content = checkpoint.load(path)
    if "shards" in content:
        from dltrain.runs.shards import load_shards  # its torch modules take long to import

        content = load_shards(content, path.parent)
    checkpoint.require(path, content, checkpoint.NETWORK, "a network of dltrain's")
    require_one_run(folder, path, content.get("run_id"))
    stored = of_checkpoint(path, content["config"])
    if started := started_elsewhere(folder):
        locate_files(stored, started)
    cfg = _configuration(stored, overrides, measures)
    try:
        preprocessing = {**content["preprocessing"], **_changed_dialect(stored, cfg)}
        fitted = Fitted(Facts(**content["facts"]), preprocessing)
        if not cfg.trust:  # else a data set of the user's may have stored anything
            require_consistent(fitted.facts, preprocessing)
        transform = transform_of(fitted.facts.kind, fitted.preprocessing)
    except (TypeError, LookupError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"'{path}' holds other facts or preprocessing than of a data set: {error}") from error
    device = pick_device(cfg.device)
    with unfetched(cfg.model), random_states_restored():  # its initial weights are replaced
        model: nn.Module = make(cfg, "model")
    try:
        model.load_state_dict(content["model"])
    except (RuntimeError, TypeError, AttributeError) as error:  # a name that is not text, a value that is not a tensor
        raise CheckpointError(f"the weights in '{path}' do not fit its configuration: {error}") from error
    model = model.to(device).eval()
    if not cfg.trust:
        try:
            require_fitting(model, fitted.facts, device)
        except MismatchError as error:
            raise CheckpointError(f"'{path}' holds facts and a network that do not fit: {error}") from error
    return Loaded(
        folder=folder.resolve(),
        checkpoint=path.resolve(),
        epoch=content["epoch"],
        cfg=cfg,
        stored=stored,
        fitted=fitted,
        model=model,
        loss=make(cfg, "loss", device=device).to(device),
        transform=transform.to(device),
        precision=pick_precision(cfg.trainer.precision, device),
    )


def _changed_dialect(stored: Any, cfg: Any) -> dict[str, Any]:
    """How the user says that tables are written, where that differs from what the run was told."""
    keys = ("separator", "header", "decimal", "thousands", "missing")
    changed = [key for key in keys if key in stored.dataset and cfg.dataset[key] != stored.dataset[key]]
    if not changed:
        return {}
    from dltrain.data.tables.dialect import dialect_of  # here, so that images need no table reader

    dialect = dialect_of(*(cfg.dataset[key] for key in keys))
    if "decimal" in changed or "thousands" in changed:  # which may follow from each other
        changed += ["decimal", "thousands"]
    return {key: getattr(dialect, key) for key in changed}


def _configuration(stored: Any, overrides: Sequence[str], measures: bool) -> Any:
    cfg = of_run(stored, overrides)
    # What trained the network is not used any more, and need not be installed here.
    cfg.trainer.strategy, cfg.pruner, cfg.logger = "ddp", {"_target_": None}, None
    if not measures and cfg.get("metric"):
        cfg.metric = {}
        cfg.trainer.checkpoint.monitor = cfg.trainer.early_stopping.monitor = None
        if "monitor" in cfg.scheduler:
            cfg.scheduler = {"_target_": None, "interval": "epoch"}
    require_trusted(cfg)  # before the check, which imports the user's classes
    if cfg.trust:  # classes in the working directory need not be installed, as in training
        sys.path.insert(0, os.getcwd())
    config.check(cfg, reads_data=False)
    return cfg


def _require_same(ours: Facts, theirs: Facts) -> None:
    for name in theirs.class_names:
        if name not in ours.class_names:
            hint = did_you_mean(name, ours.class_names)
            raise DataError(f"'{theirs.name}' has a class '{name}' that the run does not know{hint}")
    for key in ("task", "input_shape", "num_outputs", "class_names", "target_name"):
        if getattr(ours, key) != getattr(theirs, key):
            raise DataError(
                f"'{theirs.name}' does not fit the run: its {key.replace('_', ' ')} is {getattr(theirs, key)},"
                f" where the run was trained with {getattr(ours, key)}"
            )


def columns_of(facts: Facts) -> Columns:
    """The columns of a run's predictions, with their types."""
    named: Columns = {"input": str}
    if facts.kind == "table":
        named["row"] = int
    if facts.task == "classification":
        return named | {"class": str, "confidence": float} | {f"p_{name}": float for name in facts.class_names}
    return named | ({"time": str} if facts.kind == "series" else {}) | {"value": float}


def predicted_rows(loaded: Loaded, batches: Iterable[NamedBatch]) -> Iterator[Row]:
    """The rows of ``batches`` of raw samples, one batch at a time."""
    device = loaded.precision.device
    ready = ((names, loaded.transform(raw.to(device))) for names, raw in batches)
    for names, outputs in predict(loaded.model, ready, loaded.precision):
        yield from rows_of(loaded.facts, loaded.loss, names, outputs)


def rows_of(facts: Facts, loss: Loss, names: Sequence[tuple[Any, ...]], outputs: Tensor) -> Iterator[Row]:
    """A row for each prediction, of a series for each step, from ``outputs`` (batch, num_outputs) float32."""
    for name, row in zip(names, predictions(outputs, loss, facts).tolist(), strict=True):
        if facts.task == "classification":
            best = max(range(len(row)), key=row.__getitem__)
            yield [*name, facts.class_names[best], row[best], *row]
        elif facts.kind == "series":
            path, times = name
            yield from ([path, time, value] for time, value in zip(times, row, strict=True))
        else:
            yield [*name, *row]


def predictions(outputs: Tensor, loss: Loss, facts: Facts) -> Tensor:
    """Probabilities (batch, classes), or values (batch, num_outputs) in the units of the target, float64.

    ``loss`` is that with which the network was trained.
    """
    predicted = losses.predictions(loss, outputs.double(), facts.task)
    return predicted if facts.task == "classification" else original(predicted, facts)


def original(values: Tensor, facts: Facts) -> Tensor:
    """Standardised ``values`` in the units of the target, float64."""
    return values.double() * facts.target_std + facts.target_mean
