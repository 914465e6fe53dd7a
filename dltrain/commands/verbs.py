"""The verbs: what the first argument may be instead of an override. A new verb is an entry here."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from dltrain.system.answer import stdout_reserved
from dltrain.system.process import collection_paused


@dataclass(frozen=True)
class Verb:
    """What a verb is called with and for, what does it, and what the shell completes after it.

    ``run`` and ``shared`` name a function as ``module:name``, which is imported when it is called with the arguments
    after the verb. ``shared`` is what the processes other than rank 0 call where several share a run; without it rank 0
    does the work alone.
    """

    usage: str
    summary: str
    details: str
    run: str
    shared: str = ""
    completes: Literal["overrides", "groups", "words"] = "overrides"
    words: tuple[str, ...] = ()  # and flags, that the verb itself takes
    takes_files: bool = False  # after RUN
    takes_hydra_flags: bool = False

    def __call__(self, arguments: Sequence[str]) -> int:
        """Do it; returns the exit code. What the user's classes print meanwhile goes to stderr."""
        with stdout_reserved():
            return _call(self.run, arguments) or 0

    def follow(self, arguments: Sequence[str]) -> None:
        """Do the part of a process that is not rank 0."""
        with stdout_reserved():
            _call(self.shared, arguments)

    @property
    def takes_run(self) -> bool:
        return self.usage.startswith("RUN")

    @property
    def takes_path(self) -> bool:
        """Whether a path comes first."""
        return self.usage.startswith(("RUN", "FOLDER"))


def _call(name: str, arguments: Sequence[str]) -> int | None:
    module, _, function = name.partition(":")
    with collection_paused():
        imported = import_module(module)
    code: int | None = getattr(imported, function)(arguments)
    return code


def verb_of(arguments: Sequence[str]) -> tuple["Verb", list[str]]:
    """Split ``arguments`` into the verb, which is training where none comes first, and the others."""
    if arguments and arguments[0] in VERBS:
        return VERBS[arguments[0]], list(arguments[1:])
    return TRAIN, list(arguments)


TRAIN = Verb(
    "[overrides]",
    "train with the defaults below, but for the overrides",
    "",
    "dltrain.commands.train:train",
    shared="dltrain.commands.train:follow",
    takes_hydra_flags=True,
)
VERBS = {
    "check": Verb(
        "[-m] [overrides]",
        "every problem of a configuration, before any training",
        """\
Composes and checks the configuration as a run would, builds everything, takes one batch forward and backward,
and says what a run would cost: parameters and memory of each layer, time of an epoch, the learning rate over
the whole run, what is monitored, room on the disk. Nothing is written. On a terminal it prints a report, elsewhere
one line of JSON.

  dltrain check model=lstm dataset=sunspots scheduler=onecycle
  dltrain check -m optim.lr=0.01,0.1 seed=1,2       the jobs of a sweep, each checked, none run

Exit code 0: it can run. 2: it cannot, and the message says what to type.""",
        "dltrain.commands.train:check",
        takes_hydra_flags=True,
    ),
    "resume": Verb(
        "RUN [overrides]",
        "go on exactly where a run stopped",
        """\
RUN is a run folder, or a checkpoint in one. The run goes on in its folder with its own configuration; what decides its
course (data, model, seed, ...) may not change, unless a --force behind RUN says so. Weights and metrics come out as
those of a run that never stopped. `dltrain resume=auto hydra.run.dir=FOLDER ...` starts a run or goes on with it,
whichever there is.

  dltrain resume outputs/2026-01-31/12-00-00-1a2b3c4d
  dltrain resume outputs/2026-01-31/12-00-00-1a2b3c4d trainer.epochs=40""",
        "dltrain.commands.resume:resume",
        shared="dltrain.commands.train:follow",
        words=("--force",),
    ),
    "evaluate": Verb(
        "RUN [overrides]",
        "how good the network of a run is",
        """\
RUN is a run folder (its best.pt), or a checkpoint file. Prints tables on a terminal, elsewhere one line of JSON.

  split=...         train, val, test (default), or all samples of data that were split by dltrain
  dataset.root=...  another folder with the same classes: its test/ where it has one, else all of it
  dataset.path=...  another file with the same columns: all of it
  device=...        and other keys of the run's configuration

  dltrain evaluate outputs/2026-01-31/12-00-00-1a2b3c4d
  dltrain evaluate outputs/2026-01-31/12-00-00-1a2b3c4d dataset.root=other_pictures""",
        "dltrain.commands.evaluate:evaluate",
        shared="dltrain.commands.evaluate:evaluate",
        words=("split=all", "split=test", "split=train", "split=val"),
    ),
    "predict": Verb(
        "RUN INPUT... [out=FILE]",
        "what the network of a run says of new inputs",
        """\
RUN is a run folder (its best.pt), or a checkpoint file. An input that is broken is reported on stderr and left out;
the exit code is then 1.

  INPUT       images, folders of images or globs; CSV or Parquet files of rows; series to be continued beyond their end
  out=...     .csv, .jsonl or .parquet; without it, CSV goes to stdout, and a terminal shows the first rows
  device=...  and other keys of the run's configuration

  dltrain predict outputs/2026-01-31/12-00-00-1a2b3c4d photo.jpg more_photos/ out=classes.csv""",
        "dltrain.commands.predict:predict",
        shared="dltrain.commands.predict:predict",
        words=("out=",),
        takes_files=True,
    ),
    "explain": Verb(
        "RUN INPUT... [out=FOLDER]",
        "why the network of a run decided so",
        """\
RUN is a run folder (its best.pt), or a checkpoint file; INPUT as for predict. Says how much each pixel, column or step
moved the logit of the class that was predicted, or the value (of a series: the mean of the forecast), away from what
the network says of the average training input (extra: explain).

  out         folder for attributions.jsonl and pictures of the first 50 inputs; explain in the run folder by default
  method      integrated_gradients (default), whose attributions add up to the difference, or input_x_gradient
  device=...  and other keys of the run's configuration

  dltrain explain outputs/2026-01-31/12-00-00-1a2b3c4d photo.jpg out=why""",
        "dltrain.commands.explain:explain",
        words=("method=input_x_gradient", "method=integrated_gradients", "out="),
        takes_files=True,
    ),
    "export": Verb(
        "RUN [format=onnx] [out=FILE]",
        "a file that runs without dltrain",
        """\
RUN is a run folder (its best.pt), or a checkpoint file. What was written is run with batches of several sizes and
compared with the network of the run; only a file that gives the same is left there.

  format   onnx          preprocessing and network, for onnxruntime and others (extra: onnx)
           torch_export  the same, for torch.export.load
           state_dict    the weights alone, for torch.load, with what belongs to them in a JSON file
           safetensors   the weights alone (extra: safetensors)
  out      model.onnx, .pt2, .pt or .safetensors in the run folder by default

  dltrain export outputs/2026-01-31/12-00-00-1a2b3c4d out=digits.onnx""",
        "dltrain.commands.export:export",
        words=(*(f"format={name}" for name in ("onnx", "safetensors", "state_dict", "torch_export")), "out="),
    ),
    "report": Verb(
        "RUN|SWEEP [out=FILE]",
        "write the page of a run or sweep, done or still going",
        """\
Writes report.html of a run folder anew, also while the run is still going, or once it has failed: outcome, curves,
confusion matrix, mistakes, configuration, environment. In the folder of a sweep it writes sweep.html and sweep.csv,
and says what has won so far; a job that reads running while no process is at it is told as interrupted.

  out=...     where the page goes; report.html in the run folder, sweep.html in that of a sweep by default
  device=...  dataset.root=..., dataset.path=..., trust=[package] as for evaluate

  dltrain report outputs/2026-01-31/12-00-00-1a2b3c4d out=page.html""",
        "dltrain.commands.report:report",
        words=("out=",),
    ),
    "compare": Verb(
        "RUN RUN... [out=FILE]",
        "what differs between runs, and what came of it",
        """\
RUN are run folders, two or more. Prints tables on a terminal, elsewhere one line of JSON.

  out=...  a page with the same tables and all curves over one another

  dltrain compare outputs/2026-01-31/* out=compare.html""",
        "dltrain.commands.compare:compare",
        completes="words",
        words=("out=",),
        takes_files=True,
    ),
    "list": Verb(
        "[GROUP]...",
        "what can be chosen, each with one line",
        """\
Shows the options of the groups named, or of all of them, and with --config-dir FOLDER those of yours as well.
group=option chooses one, group.key=value sets a key.

  dltrain list scheduler
  dltrain list --config-dir my_conf model
  dltrain scheduler=cosine --cfg job -p scheduler    the keys of an option""",
        "dltrain.commands.help:list_options",
        completes="groups",
        words=("--config-dir",),
    ),
    "shards": Verb(
        "FOLDER OUT [format=tar]",
        "tar or Parquet shards of an image folder",
        """\
FOLDER holds <class>/<images>, or train/<class>/<images> with val/ and test/ where there are any, as for
dataset=image_folder. OUT, which must be new, gets train/000000.tar, ... and classes.txt. Images are copied as they
are, in a seeded order (extra: shards).

  format   tar (default) or parquet
  samples  images of a shard at most, 10000 by default
  seed     of the order, 0 by default

  dltrain shards photos photos_in_shards
  dltrain dataset=shards dataset.root=photos_in_shards""",
        "dltrain.commands.shards:shards",
        completes="words",
        words=("format=parquet", "format=tar", "samples=", "seed="),
    ),
    "cache": Verb(
        "[clear]",
        "decoded images on disk",
        """\
Lists the images that were decoded once and kept for later runs, the longest unused first; `clear` removes all.
$DLTRAIN_CACHE moves the folder, $DLTRAIN_CACHE_GB bounds it.""",
        "dltrain.commands.cache:cache",
        completes="words",
        words=("clear",),
    ),
}
