"""The rules of the house, held by reading and importing its code."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dltrain

ROOT = Path(dltrain.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
LEAVES = ("data", "models", "losses", "schedulers", "loggers", "report")
WITH_HYDRA = ("cli.py", "config", "build", "sweep")
HEAVY = ("torch", "torchvision", "polars", "matplotlib", "numpy", "PIL")


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_leaves_do_not_import_each_other_nor_what_is_above_them(path):
    leaf = part_of(path).removesuffix(".py")
    if leaf not in LEAVES:
        pytest.skip("not a leaf")
    allowed = {f"dltrain.{leaf}", "dltrain.errors", "dltrain.system.expression", "dltrain.system.extras"}
    allowed |= {"dltrain.system.files", "dltrain.system.machine"}
    ours = {name for name in imports_of(path) if name.split(".")[0] == "dltrain"}
    assert {name for name in ours if not any(name == good or name.startswith(f"{good}.") for good in allowed)} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_hydra_and_omegaconf_stay_at_the_edge(path):
    if part_of(path) in WITH_HYDRA:
        pytest.skip("may use them")
    assert not {name.split(".")[0] for name in imports_of(path)} & {"hydra", "omegaconf"}


@pytest.mark.parametrize("path", [*MODULES, *Path(__file__).parent.glob("*.py")], ids=lambda path: path.name)
def test_what_hydra_does_not_declare_public_is_imported_in_one_file(path):
    names = {name for name in imports_of(path) if f"{name}.".startswith("hydra._internal.")}
    assert not names or path == ROOT / "config" / "hydra_internals.py"


def loaded_after(code: str, cwd: Path) -> set[str]:
    """Top-level modules that are loaded once ``code`` has run in its own process."""
    script = f"import sys\n{code}\nprint('loaded', *{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=cwd, timeout=60)
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("loaded ")]
    return set(line.split()[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["check", "--help"],
        *([verb, "--help"] for verb in ("evaluate", "predict", "report", "compare")),
        *([verb] for verb in ("evaluate", "predict", "report", "compare")),
        ["evaluate", "nowhere"],
        ["predict", "nowhere", "photo.jpg"],
        ["predict", ".", "out=photo.gif"],
        ["report", "nowhere", "out=page.html"],
        ["compare", "here", "there"],
        ["check", "optim.lr=-1"],
        ["check", "-m", "optim.lr=-1,0.1"],
        ["check", "-m", "seed=1,2"],
        ["check", "-m", "pruner=median", "seed=1,2"],
        ["-m", "pruner=hyperband", "pruner.min_resource=x", "seed=1,2"],
        ["-sc", "install=bash"],
        ["--cfg", "job"],
        ["--info"],
        ["model=cnnn"],
        ["optim.momentun=0.9"],
        ["trainer.epochs=abc"],
        ["optm=sgd"],
        ["dataset=image_folder"],
        ["model=gru", "model.hiden_size=3"],
        ["model.activation=rellu", "optim=adamw", "optim.betas=[1,2]"],
        ["model=resnet18", "model._target_=torchvision.models.resnet19"],
        ["scheduler=plateau", "scheduler.monitor=val/acc"],
        ["scheduler=lambda", "scheduler.lr_lambda='9**9**9'"],
        ["loss._target_=os.system"],
        ["logger=[csv,tensorboard]", "logger.csv._target_=torch.optim.SGD"],
        ["-m", "dataset=digits,diabetes,sunspots,table", "seed=-2,-1"],
    ],
    ids=" ".join,
)
def test_help_and_configuration_errors_import_nothing_heavy(arguments, tmp_path):
    loaded = loaded_after(f"from dltrain.cli import main\nmain({arguments!r})", tmp_path)
    assert not loaded & set(HEAVY)


def test_a_configuration_error_takes_less_than_half_the_time_of_importing_torch(tmp_path):
    def seconds(*command: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, cwd=tmp_path, timeout=60)
        return time.perf_counter() - began

    mistakes = ["-m", "dltrain", "trainer.epoch=3", "optim=adamw", "model=gru", "scheduler=plateau", "optim.lr=-1"]
    assert min(seconds(*mistakes) for _ in range(3)) < seconds("-c", "import torch") / 2


def test_a_run_imports_only_what_it_uses(tmp_path):
    arguments = ["trainer.epochs=1", "dataset.limit=8", "report=false"]
    loaded = loaded_after(f"from dltrain.cli import main\nassert main({arguments!r}) == 0", tmp_path)
    assert "torch" in loaded
    assert not loaded & {"torchvision", "polars", "matplotlib", "tensorboard", "mlflow", "wandb", "simpleeval"}
    assert "sympy" not in loaded  # torch's compiler brings it


def test_several_processes_start_without_the_compiler(tmp_path):
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    arguments = ["trainer.epochs=1", "dataset.limit=8", "report=false", "device=cpu"]
    run = f"import os\nos.environ.update({place})\nfrom dltrain.cli import main\nassert main({arguments!r}) == 0"
    assert "sympy" not in loaded_after(run, tmp_path)


def test_looking_through_all_modules_does_not_bring_the_compiler(tmp_path):
    code = "import inspect\nfrom dltrain.system.device import defer_compiler\ndefer_compiler()\n"
    look = "inspect.getmodule(inspect.currentframe(), 'nowhere.py')"
    assert "sympy" not in loaded_after(code + look, tmp_path)


@pytest.mark.parametrize(
    "use", ["import torch._dynamo.config", "torch.compile(torch.nn.Identity())", "torch._dynamo.reset()"]
)
def test_the_compiler_comes_as_soon_as_it_is_used(use, tmp_path):
    code = f"import torch\nfrom dltrain.system.device import defer_compiler\ndefer_compiler()\n{use}"
    assert "sympy" in loaded_after(code, tmp_path)
