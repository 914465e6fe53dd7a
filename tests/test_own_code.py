"""Classes of the user's own: the README's example as it stands there, and data sets that inherit from nothing."""

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from dltrain.data import adapted as adapted_module
from dltrain.data.adapted import adapted
from dltrain.data.base import Data, Facts
from dltrain.data.bundled import digits
from dltrain.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread")

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SECTION = re.search(r"^## Your own code\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)[1]
COMMANDS = [shlex.split(line) for line in re.findall(r"^    dltrain (.*)$", SECTION, re.MULTILINE)]


class Mapped:
    """A map-style data set: classes 0 to 2, four features."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((4,), float(index)), index % 3


def pairs(count: int) -> list[tuple[torch.Tensor, int]]:
    return [Mapped(count)[index] for index in range(count)]


def everything(samples) -> tuple[torch.Tensor, torch.Tensor]:
    return samples.take(torch.arange(len(samples)))


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    """The files of the README's section, written where they say."""
    for language, name, text in re.findall(r"^```(\w+)\n# (\S+)\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL):
        assert Path(name).suffix == {"python": ".py", "yaml": ".yaml"}[language]
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_readmes_commands_work_as_they_stand(dltrain, readme, command):
    outcome = dltrain(*command, "trainer.epochs=2")
    assert outcome.code == 0, outcome.stderr
    assert outcome.result["status"] in ("done", "ok")


def test_the_readmes_data_set_is_learned_and_its_logger_written(dltrain, readme):
    outcome = dltrain(*COMMANDS[1], "trainer.epochs=30")
    assert outcome.result["test"]["accuracy"] > 0.9
    lines = (outcome.folder / "lines.txt").read_text().splitlines()
    assert len(lines) == 30
    assert lines[0].startswith("epoch 1: ")


def test_the_readme_has_an_example_for_each_kind_of_class():
    groups = re.findall(r"^# my_conf/(\w+)/", SECTION, re.MULTILINE)
    assert set(groups) == {"model", "dataset", "loss", "optim", "scheduler", "logger"}


@pytest.mark.parametrize(
    "made",
    [
        SimpleNamespace(train=pairs(30)),
        SimpleNamespace(train=iter(pairs(30))),
        SimpleNamespace(train=Mapped(30), val=None),
        {"train": pairs(30)},
        (Mapped(30),),
        pairs(30),
        Mapped(30),
        TensorDataset(*map(torch.stack, zip(*[(x, torch.tensor(y)) for x, y in pairs(30)], strict=True))),
    ],
    ids=["list", "iterator", "map-style", "dict", "tuple", "list alone", "map-style alone", "tensors"],
)
def test_the_same_samples_are_the_same_data_set_however_they_are_handed_over(made):
    data = adapted(made, "mine", val_fraction=0.0)
    assert data.facts == Facts("mine", "classification", "table", (4,), 3)
    inputs, targets = everything(data.train)
    assert torch.equal(inputs, torch.stack([x for x, _ in pairs(30)]))
    assert torch.equal(targets, torch.arange(30) % 3)
    assert data.val is data.test is None


def test_given_parts_stay_as_they_are():
    data = adapted((pairs(30), pairs(12), pairs(6)), "mine")
    assert [len(part) for part in (data.train, data.val, data.test)] == [30, 12, 6]


def test_what_is_missing_is_held_out_by_class_and_by_seed():
    first, again, other = (adapted(pairs(60), "mine", val_fraction=0.2, split_seed=seed) for seed in (0, 0, 1))
    assert everything(first.val)[1].bincount().tolist() == [4, 4, 4]
    assert torch.equal(everything(first.val)[0], everything(again.val)[0])
    assert not torch.equal(everything(first.val)[0], everything(other.val)[0])


def test_parts_that_are_held_out_share_no_sample():
    data = adapted(Mapped(50), "mine", val_fraction=0.2, test_fraction=0.2)
    parts = [set(everything(part)[0][:, 0].tolist()) for part in (data.train, data.val, data.test)]
    assert [len(part) for part in parts] == [32, 8, 10]
    assert len(set.union(*parts)) == 50


def test_a_limit_keeps_so_many_of_each_part():
    data = adapted((pairs(30), Mapped(12)), "mine", limit=7)
    assert (len(data.train), len(data.val)) == (7, 7)


def test_map_style_samples_are_read_by_workers_and_lists_lie_in_memory():
    assert adapted(Mapped(9), "mine").train.streamed
    assert not adapted(pairs(9), "mine").train.streamed


@pytest.mark.parametrize(
    ("sample", "facts"),
    [
        (([0.5, 1.0], 2.5), ("regression", "table", (2,), 1)),
        ((np.zeros((5, 3)), np.zeros(4, np.float32)), ("regression", "series", (5, 3), 4)),
        ((torch.zeros(3, 8, 8, dtype=torch.uint8), True), ("classification", "image", (3, 8, 8), 2)),
        ((1.5, 0), ("classification", "table", (1,), 1)),
    ],
    ids=["number", "series", "image", "one feature"],
)
def test_facts_follow_from_the_samples(sample, facts):
    found = adapted([sample] * 4, "mine", val_fraction=0.0).facts
    assert (found.task, found.kind, found.input_shape, found.num_outputs) == facts


def test_stated_facts_win_over_those_that_are_seen():
    named = SimpleNamespace(train=pairs(9), class_names=("a", "b", "c", "d"))
    assert adapted(named, "mine").facts.num_outputs == 4
    numbers = SimpleNamespace(train=pairs(9), task="regression")
    data = adapted(numbers, "mine")
    assert (data.facts.task, everything(data.train)[1].dtype) == ("regression", torch.float32)


def test_bytes_become_numbers_from_0_to_1_and_numbers_stay():
    data = adapted([(torch.full((1, 2, 2), 255, dtype=torch.uint8), 0)] * 3, "mine", val_fraction=0.0)
    assert torch.equal(data.transform(data.train.take(torch.tensor([0]))[0]), torch.ones(1, 1, 2, 2))
    assert torch.equal(data.transform(torch.full((1, 2), 7.5)), torch.full((1, 2), 7.5))


def test_our_own_data_pass_through():
    data = digits(limit=10)
    assert isinstance(data, Data) and adapted(data, "digits") is data


WRONG = [
    (7, ["mine returned a int", "train, val and test"]),
    ({"training": pairs(3)}, ["training", "train, val and test"]),
    ((pairs(3),) * 4, ["tuple of 4"]),
    ({"val": pairs(3)}, ["no part 'train'"]),
    ([], ["mine.train is empty"]),
    (["ab", "cd"], ["sample 0 is a str", "pair (input, target)"]),
    ([(torch.zeros(4), "cat")] * 2, ["target of sample 0", "'cat'", "neither a number"]),
    ([(torch.zeros(4), 0), (torch.zeros(5), 1)], ["sample 1 has shape (5,)", "(4,)"]),
    ([(torch.zeros(2, 2, 2, 2), 0)], ["(2, 2, 2, 2)", "neither table, series nor image"]),
    ([(torch.zeros(4), 0), (torch.zeros(4), -1)], ["target of sample 1 is -1", "from 0 to 0"]),
    ([(torch.zeros(4), 0), (torch.zeros(4), 0.5)], ["target of sample 1 is 0.5"]),
    ([(torch.zeros(4), [1.0, 2.0]), (torch.zeros(4), [1.0])], ["sample 1 has 1 targets, others have 2"]),
    ((pairs(3), [(torch.zeros(4), 9)]), ["mine.val", "target of sample 0 is 9", "from 0 to 2", "num_outputs"]),
    (SimpleNamespace(train=pairs(3), task="ranking"), ["'ranking'", "classification or regression"]),
]


@pytest.mark.parametrize(("made", "fragments"), WRONG, ids=[fragments[0] for _, fragments in WRONG])
def test_a_wrong_data_set_gets_one_clear_message(made, fragments):
    with pytest.raises(DataError) as raised:
        adapted(made, "mine", val_fraction=0.0)
    for fragment in fragments:
        assert fragment in str(raised.value)


def test_an_iterable_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(adapted_module, "_MOST_SAMPLES", 100)
    with pytest.raises(DataError, match=r"no end within 101 samples.*__len__ and __getitem__"):
        adapted(iter(lambda: (torch.zeros(4), 0), None), "mine")


def test_a_picture_is_sent_to_totensor():
    with pytest.raises(DataError, match="ToTensor"):
        adapted([(Image.new("L", (4, 4)), 0)], "mine")


MODULE = """
import torch

class Mapped:
    def __len__(self):
        return 40
    def __getitem__(self, index):
        if index == {bad}:
            return torch.zeros(5), 0
        return torch.rand(4) + index % 2, index % 2

class Keys:
    def __init__(self, val_fraction, **others):
        self.train = [(torch.full((2,), val_fraction), 0)] * 8
        self.others = others
        assert "limit" in others and "batch_size" not in others
"""


def own_data(folder: Path, target: str, keys: str = "", bad: int = -1) -> list[str]:
    """Files of a user whose data set is ``target``, and the arguments that choose it."""
    (folder / "own_data.py").write_text(MODULE.format(bad=bad))
    (folder / "my_conf" / "dataset").mkdir(parents=True)
    (folder / "my_conf" / "dataset" / "own.yaml").write_text(f"_target_: own_data.{target}\n{keys}")
    return ["--config-dir", "my_conf", "dataset=own", "model=mlp", "trainer.epochs=1"]


@pytest.fixture(autouse=True)
def _fresh_modules(monkeypatch):
    """A module of the user's is imported anew in each test."""
    for name in ("own_data", "my_code"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_random_samples_of_workers_repeat_with_the_seed(dltrain, tmp_path):
    arguments = own_data(tmp_path, "Mapped", "batch_size: 8\n")
    runs = [dltrain(*arguments, f"seed={seed}").folder / "metrics.csv" for seed in (1, 1, 2)]
    first, again, other = (path.read_text() for path in runs)
    assert first == again != other


def test_a_bad_sample_that_a_worker_meets_is_one_message(dltrain, tmp_path):
    outcome = dltrain(*own_data(tmp_path, "Mapped", "batch_size: 8\nval_fraction: 0\n", bad=17))
    assert outcome.code == 2
    assert "sample 17 has shape (5,)" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_class_that_takes_a_key_of_dltrains_gets_it(dltrain, tmp_path):
    outcome = dltrain(*own_data(tmp_path, "Keys", "batch_size: 8\nval_fraction: 0.5\nlimit: null\n"))
    assert outcome.code == 0, outcome.stderr


STATED = """
from dltrain.data.stated import Stated

@Stated(task="regression", held_out=True, files={"path": "a file of numbers"}, folders={"root": "my files"})
def numbers(path="own_data.py", root="."):
    raise AssertionError("it is not made where its configuration is wrong")
"""


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["dataset.path=none.txt"], ["dataset.path='none.txt'", "there is no such file; it must be a file of numbers"]),
        (["dataset.root=nowhere"], ["dataset.root='nowhere'", "there is no such folder; it must hold my files"]),
        (["trainer.checkpoint.monitor=val/accuracy"], ["is no metric of this run, but of classification"]),
        (["dataset.val_fraction=0", "trainer.checkpoint.monitor=val/mae"], ["dataset.val_fraction=0 leaves no"]),
    ],
    ids=lambda value: value[0],
)
def test_what_a_data_set_states_is_checked_before_it_is_made(dltrain, tmp_path, arguments, fragments):
    keys = "batch_size: 8\nval_fraction: 0.1\npath: own_data.py\nroot: .\n"
    typed = own_data(tmp_path, "numbers", keys)
    (tmp_path / "own_data.py").write_text(STATED)
    outcome = dltrain("check", *typed, *arguments)
    assert outcome.code == 2
    assert all(fragment in outcome.stderr for fragment in fragments), outcome.stderr


def test_a_data_set_without_a_batch_size_is_told_what_to_write(dltrain, tmp_path):
    outcome = dltrain(*own_data(tmp_path, "Mapped"))
    assert outcome.code == 2
    assert "dataset.batch_size" in outcome.stderr and "is missing" in outcome.stderr


@pytest.mark.parametrize("target", ["torch.hub.load", "posix.system", "own_data.Mapped.__init__.__globals__"])
def test_a_node_that_a_resolver_makes_of_facts_of_the_data_is_checked_before_it_is_made(dltrain, tmp_path, target):
    node = f"${{oc.create:{{a:${{oc.decode:'[${{data.num_outputs}}]'}},_target_:{target},command:'touch stolen'}}}}"
    (tmp_path / "my_conf" / "loss").mkdir(parents=True)
    (tmp_path / "my_conf" / "loss" / "own.yaml").write_text(f'_target_: torch.nn.CrossEntropyLoss\nweight: "{node}"\n')
    outcome = dltrain("--config-dir", "my_conf", "loss=own", "dataset.limit=8")
    assert outcome.code == 2, outcome.stderr
    assert f"loss.weight._target_='{target}'" in outcome.stderr
    assert not (tmp_path / "stolen").exists()


def test_a_list_for_an_argument_annotated_as_a_tensor_is_one_of_floats_on_the_device(dltrain, verb, tmp_path):
    """At any depth; a call of torch.tensor for the user's own class stays what it is."""
    (tmp_path / "my_code.py").write_text(
        "import torch\nfrom torch import Tensor, nn\n"
        "class Both(nn.Module):\n"
        "    def __init__(self, table: torch.Tensor, parts: list, index: Tensor | None = None, many: list[int] = ()):\n"
        "        super().__init__()\n"
        "        kinds = [(one.dtype, str(one.device), one.tolist()) for one in (table, parts[0].weight, index)]\n"
        "        print(kinds, many)\n"
        "        self.parts = nn.ModuleList(parts)\n"
        "    def forward(self, outputs, targets):\n"
        "        return sum(part(outputs, targets) for part in self.parts)\n"
    )
    (tmp_path / "my_conf" / "loss").mkdir(parents=True)
    (tmp_path / "my_conf" / "loss" / "both.yaml").write_text(
        "_target_: my_code.Both\ntable: [[1, 2], [3, 4]]\nmany: [1, 2]\n"
        "index: {_target_: torch.tensor, data: [1, 2]}\n"
        "parts:\n  - _target_: torch.nn.CrossEntropyLoss\n    weight: [1, 1, 1, 1, 1, 1, 1, 1, 1, 8]\n"
    )
    run = dltrain("--config-dir", "my_conf", "loss=both", "dataset.limit=20", "trainer.epochs=1", "device=cpu")
    assert run.code == 0, run.stderr
    made = (
        "[(torch.float32, 'cpu', [[1.0, 2.0], [3.0, 4.0]]), (torch.float32, 'cpu', [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,"
        " 1.0, 1.0, 8.0]), (torch.int64, 'cpu', [1, 2])] [1, 2]"
    )
    assert made in run.stderr
    assert made in verb("evaluate", run.result["run"], "trust=[my_code]").stderr


def test_what_own_code_prints_is_no_part_of_the_answer(dltrain, verb, tmp_path):
    (tmp_path / "my_code.py").write_text(
        "from dltrain.models import MLP\n"
        "print('imported')\n"
        "class Net(MLP):\n"
        "    def forward(self, inputs):\n"
        "        print('computed')\n"
        "        return super().forward(inputs)\n"
    )
    Image.new("L", (8, 8)).save(tmp_path / "new.png")
    own = ("model=mlp", "model._target_=my_code.Net", "dataset.limit=20", "trainer.epochs=1")
    outcomes = [dltrain(*own, "hydra.run.dir=run"), dltrain("check", *own)]
    outcomes += [dltrain("resume", "run", "trainer.epochs=2", "trust=[my_code]")]
    verbs = (("evaluate", "run"), ("export", "run", "out=net.pt"), ("report", "run"), ("explain", "run", "new.png"))
    outcomes += [verb(*words, "trust=[my_code]") for words in verbs]
    for outcome in outcomes:
        assert outcome.code == 0, outcome.stderr
        assert outcome.result["status"] in ("done", "ok") and "computed" in outcome.stderr
    assert "imported" in outcomes[0].stderr
    predicted = verb("predict", "run", "new.png", "trust=[my_code]")
    assert [row.split(",")[0] for row in predicted.stdout.splitlines()] == ["input", "new.png"]


def test_a_scheduler_of_ones_own_gets_those_within_it_with_the_optimizer(dltrain, tmp_path):
    (tmp_path / "warm_up.py").write_text(
        "from torch.optim.lr_scheduler import LRScheduler\n\n\n"
        "class Doubled(LRScheduler):\n"
        "    def __init__(self, optim, inner):\n"
        "        self.inner = inner\n"
        "        super().__init__(optim)\n\n"
        "    def get_lr(self):\n"
        "        if self.last_epoch:\n"
        "            self.inner.step()\n"
        "        return [2 * rate for rate in self.inner.get_last_lr()]\n\n"
        "    def state_dict(self):\n"
        "        return {'last_epoch': self.last_epoch}\n"
    )
    inner = "{_target_:torch.optim.lr_scheduler.LambdaLR,lr_lambda:{_target_:warm_up.halves,_partial_:true}}"
    with open(tmp_path / "warm_up.py", "a") as file:
        file.write("\n\ndef halves(epoch):\n    return 0.5**epoch\n")
    keys = ("scheduler._target_=warm_up.Doubled", f"+scheduler.inner={inner}")
    outcome = dltrain(*keys, "model=mlp", "dataset.limit=40", "trainer.epochs=3", "optim.lr=0.08")
    assert outcome.code == 0, outcome.stderr
    rates = [float(line.split(",")[2]) for line in (outcome.folder / "metrics.csv").read_text().splitlines()[1:]]
    assert rates == pytest.approx([0.16, 0.08, 0.04])
