"""Whose code a ``_target_`` may name, and where: what could do harm is refused before it is imported or called."""

import sys
from pathlib import Path

import pytest

from dltrain.config.targets import PLACES, WITHIN, Trust, find
from dltrain.errors import ConfigError

SHORT = ("dataset.limit=8", "trainer.epochs=1", "report=false")
TOUCH = "__import__('pathlib').Path('stolen').touch()"
WRITE = "{_target_:torchvision.io.write_file,filename:stolen,data:[1]}"


@pytest.mark.parametrize(
    ("overrides", "fragment"),
    [
        ([f'+loss.weight={{_target_:sympy.sympify,a:"{TOUCH}"}}'], "trust=[sympy]"),
        (["loss._target_=sympy.sympify", f'+loss.a="{TOUCH}"', "~loss.label_smoothing"], "trust=[sympy]"),
        (["model=mlp", f"+model._args_=[{WRITE}]"], "is a function, but not a module"),
        (["+dataset.x={_target_:webdataset.WebDataset,urls:'pipe:touch stolen'}"], "trust=[webdataset]"),
        (["+dataset.x={_target_:torch.utils.data.datapipes.iter.FileOpener}"], "is a class, but not a transform"),
        (["dataset._target_=dltrain.data.cache.clear"], "is a function, but not a function or class that makes"),
        (["dataset._target_=torchvision.datasets.utils.download_url"], "is a function, but not"),
        (["model._target_=torchvision.models.list_models"], "is a function, but not a torch.nn.Module"),
        (["+optim.x={_target_:dltrain.models.MLP}"], "is a class, but not an optimizer or a value"),
        (["+logger.csv.x={_target_:dltrain.loggers.csv.CSVLogger}"], "is a class, but not a value"),
        (["+logger.csv.x={_target_:torchvision.io.write_file}"], "is a function, but not a value"),
    ],
    ids=lambda value: value[-1][:50] if isinstance(value, list) else "",
)
def test_what_could_do_harm_is_refused_wherever_it_stands(dltrain, tmp_path, overrides, fragment):
    outcome = dltrain(*SHORT, *overrides)
    assert outcome.code == 2, outcome.stderr
    assert fragment in outcome.stderr and "Traceback" not in outcome.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes the package ``other_code``, as pip would install it, whose distribution requires what is named."""
    site = tmp_path / "lib" / "site-packages"
    monkeypatch.chdir(tmp_path)  # where an import leaves a trace
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "other_code", raising=False)

    def write(name: str, requires: str = "") -> None:
        (site / f"{name}-1.dist-info").mkdir(parents=True)
        (site / f"{name}-1.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{requires}"
        )
        (site / f"{name}.py").write_text(
            "from pathlib import Path\nfrom torch import nn\nPath('imported').touch()\n"
            "class Net(nn.Linear): pass\nclass Table: pass\ndef make(): return nn.Linear(1, 1)\n"
        )

    yield write
    for name in [name for name in sys.modules if name.startswith("other_code")]:
        del sys.modules[name]


NOBODY = Trust()


def refusal(name, place, trust=NOBODY) -> str:
    try:
        find(name, place, trust)
    except ConfigError as error:
        return str(error)
    return ""


def test_an_installed_package_needs_trust_but_for_classes_of_the_right_kind(package):
    package("other_code_1", "Requires-Dist: torch>=2; extra == 'dev'\n")
    for place in (PLACES["dataset"], PLACES["logger"], WITHIN["logger"]):
        assert "add trust=[other_code_1]" in refusal("other_code_1.Table", place)
    assert not Path("imported").exists()  # where nothing is to be learnt from it, it is not imported
    assert "add trust=[other_code_1]" in refusal("other_code_1.make", PLACES["model"])
    assert "add trust=[other_code_1]" in refusal("other_code_1.Table", WITHIN["model"])
    assert refusal("other_code_1.Net", PLACES["model"]) == ""
    assert refusal("other_code_1.make", PLACES["model"], Trust(("other_code_1",))) == ""
    assert refusal("other_code_1.Table", PLACES["dataset"], Trust(("other_code_1",))) == ""


@pytest.mark.parametrize("requires", ["torch", "torchvision>=0.2", "torch>=2.4; extra == 'torch'"])
def test_a_package_that_is_made_for_torch_needs_none(package, requires):
    name = f"other_code_{abs(hash(requires))}"
    package(name, f"Requires-Dist: numpy\nRequires-Dist: {requires}\n")
    assert refusal(f"{name}.make", PLACES["model"]) == ""
    assert refusal(f"{name}.Table", PLACES["dataset"]) == ""


def test_what_another_package_defines_is_no_code_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "other_code_own.py").write_text("from sympy import sympify\nfrom os import system\ndef make(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "add trust=[sympy]" in refusal("other_code_own.sympify", PLACES["model"])
    assert "is a part of Python itself" in refusal("other_code_own.system", PLACES["model"])
    assert refusal("other_code_own.make", PLACES["model"]) == refusal("other_code_own.make", WITHIN["logger"]) == ""


@pytest.mark.parametrize(
    ("group", "name"),
    [
        *(("model", f"torchvision.models.{name}") for name in ("resnet34", "get_model", "quantization.resnet18")),
        *(("loss", name) for name in ("torch.nn.CrossEntropyLoss", "dltrain.losses.for_task")),
        *(("dataset", name) for name in ("torchvision.datasets.FakeData", "torch.utils.data.ConcatDataset")),
        ("dataset", "dltrain.data.bundled.digits"),
        ("scheduler", "dltrain.schedulers.linear_warmup_cosine"),
    ],
)
def test_what_torch_and_dltrain_offer_for_a_place_passes(group, name):
    assert refusal(name, PLACES[group]) == ""


@pytest.mark.parametrize(
    ("group", "name"),
    [
        *(("model", name) for name in ("torch.nn.Linear", "torchvision.models.resnet18", "torch.device")),
        ("model", "torchvision.models.detection.backbone_utils.resnet_fpn_backbone"),
        *(("dataset", f"torchvision.transforms.{name}") for name in ("Compose", "v2.Resize", "functional.to_tensor")),
        *(("dataset", name) for name in ("torch.utils.data.Subset", "torchvision.datasets.folder.default_loader")),
        *(("optim", name) for name in ("torch.optim.SGD", "torch.tensor")),
        *(("pruner", "optuna.pruners.MedianPruner"), ("logger", "torch.tensor")),
    ],
)
def test_what_torch_and_dltrain_offer_within_a_node_passes(group, name):
    assert refusal(name, WITHIN[group]) == ""


def test_a_target_that_the_data_decide_is_looked_at_before_it_is_called(dltrain, tmp_path):
    """Before the data are loaded it is another one, which passes."""
    (tmp_path / "turncoat.py").write_text(
        "class Data:\n    def __init__(self):\n        self.class_names = ['posix.mkdir', 'b']\n"
        "        self.train = self.val = [([0.0], 0), ([1.0], 1)] * 4\n"
    )
    (tmp_path / "my_conf" / "dataset").mkdir(parents=True)
    (tmp_path / "my_conf" / "dataset" / "own.yaml").write_text("_target_: turncoat.Data\nbatch_size: 2\n")
    (tmp_path / "my_conf" / "loss").mkdir(parents=True)
    (tmp_path / "my_conf" / "loss" / "own.yaml").write_text(
        "_target_: ${oc.select:data.class_names.0,torch.nn.CrossEntropyLoss}\n"
    )
    sys.modules.pop("turncoat", None)
    outcome = dltrain("--config-dir", "my_conf", "dataset=own", "loss=own", "model=mlp", "trainer.epochs=1")
    sys.modules.pop("turncoat", None)
    assert outcome.code == 2, outcome.stderr
    assert "posix.mkdir is a part of Python itself" in outcome.stderr
