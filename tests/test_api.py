"""dltrain from Python: the command line to the bit, with values and exceptions, in a process that is left as it was."""

import asyncio
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from conftest import FINISHED_RUNS
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from made import write_images, write_table
from omegaconf import OmegaConf
from PIL import Image

from dltrain import Run, check, compose, load, train
from dltrain.config.command_line import overrides_of_values
from dltrain.data.bundled import _FILES
from dltrain.errors import ConfigError, DataError, Interrupted, TrainingError, UserError
from dltrain.runs import checkpoint
from dltrain.training.progress import View

SHORT = ["trainer.epochs=1", "dataset.limit=40", "model=mlp", "report=false"]
OWN_CODE = """
import sys
import torch

class Net(torch.nn.Linear):
    def __init__(self, input_shape, num_outputs):
        super().__init__(input_shape[-1] ** 2, num_outputs)

    def forward(self, inputs):
        return super().forward(inputs.flatten(1))

class Leaving(Net):
    def __init__(self, input_shape, num_outputs):
        sys.exit("I leave")
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_code", raising=False)


@pytest.fixture(scope="module")
def of_python(tmp_path_factory) -> dict[str, Run]:
    """Runs of the same configurations as those that the command line has finished."""
    root = tmp_path_factory.mktemp("python")
    return {
        name: train([*overrides, "report=false"], **{"hydra.run.dir": root / name})
        for name, overrides in FINISHED_RUNS.items()
    }


@pytest.fixture(scope="module")
def of_photos(tmp_path_factory) -> tuple[Run, Path]:
    """A run on images of another size than it reads them in, and one of their folders."""
    root = tmp_path_factory.mktemp("photos")
    write_images(root / "photos", parts=("train", "test"))
    run = train(dataset="image_folder", **{"dataset.root": root / "photos", "dataset.image_size": 8}, **_short(root))
    return run, root / "photos" / "test" / "dark"


def _short(root):
    return {"trainer.epochs": 1, "report": False, "hydra.run.dir": root / "run"}


def test_the_package_is_imported_without_anything_else_and_checks_without_torch(tmp_path):
    code = """
import sys
before = set(sys.modules)
import dltrain
assert set(sys.modules) - before == {"dltrain"}, set(sys.modules) - before
assert dltrain.check(["model=cnnn"]) and dltrain.compose(model="cnn").model._target_ == "dltrain.models.CNN"
assert not {"torch", "numpy", "polars", "PIL"} & set(sys.modules)
assert {"train", "load", "compose", "check", "Run"} <= set(dir(dltrain)) and not hasattr(dltrain, "tran")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60)


@pytest.mark.parametrize("name", FINISHED_RUNS)
def test_a_run_is_that_of_the_command_line_to_the_bit(of_python, finished_runs, name):
    run, command = of_python[name], finished_runs[name]
    assert (run.path / "metrics.csv").read_text() == (command / "metrics.csv").read_text()
    assert run.result["test"] == json.loads((command / "result.json").read_text())["test"]
    assert run.metrics.equals(pl.read_csv(command / "metrics.csv"))
    best = checkpoint.load(command / "checkpoints" / "best.pt")["model"]
    assert all(torch.equal(value, best[key]) for key, value in run.model.state_dict().items())
    assert not run.model.training


@pytest.mark.parametrize("name", FINISHED_RUNS)
def test_parts_are_evaluated_as_by_the_command_in_any_order(verb, finished_runs, name):
    run = load(finished_runs[name])
    for split in ("all", "val", "test", "all"):
        assert run.evaluate(split=split) == verb("evaluate", str(run.path), f"split={split}").result
    assert run.evaluate() == run.evaluate("test")
    with pytest.raises(UserError, match="split=validation is not allowed"):
        run.evaluate("validation")


def predicted_by(verb, run: Run, *inputs) -> pl.DataFrame:
    outcome = verb("predict", str(run.path), *map(str, inputs))
    assert outcome.code == 0, outcome.stderr
    texts = pl.read_csv(io.StringIO(outcome.stdout), infer_schema=False)
    own = run.predict(inputs[0] if len(inputs) == 1 else list(inputs))
    assert texts.columns == own.columns
    return texts.cast(own.schema)


@pytest.mark.parametrize("name", ["diabetes", "sunspots"])
def test_rows_are_predicted_as_by_the_command_from_files_and_frames(verb, of_python, name):
    run, file = of_python[name], _FILES / f"{name}.csv"
    expected, frame = predicted_by(verb, run, file), pl.read_csv(file, infer_schema_length=None)
    assert run.predict(file).equals(expected) and run.predict([str(file)]).equals(expected)
    assert run.predict(frame).equals(expected.drop("input")) and run.predict(frame.lazy()).equals(
        expected.drop("input")
    )
    assert run.predict(pd.read_csv(file)).equals(expected.drop("input"))
    assert predicted_by(verb, run, file, file).equals(run.predict([file, file]))


def test_what_is_missing_in_a_frame_is_missing_whoever_has_made_it(verb, tmp_path):
    write_table(tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text().replace(",red,", ",,", 3)
    (tmp_path / "t.csv").write_text(text)
    run = train(dataset="table", **{"dataset.path": "t.csv", "dataset.target": "kind"}, **_short(tmp_path))
    expected = predicted_by(verb, run, "t.csv").drop("input")
    assert run.predict(pl.read_csv("t.csv")).equals(expected)
    assert run.predict(pd.read_csv("t.csv").astype({"colour": "category"})).equals(expected)
    assert run.predict(pl.read_csv("t.csv").head(0)).equals(expected.head(0))
    with pytest.raises(DataError, match=r"cannot be used: 2\nthe frame, row 2: .*'few'.*\nthe frame, row 3: .*'many'"):
        run.predict(pl.DataFrame({"x": ["0.5", "few", "many"], "colour": ["red", "blue", "red"]}))
    with pytest.raises(DataError, match="'the frame' has no column 'colour'"):
        run.predict(pl.DataFrame({"x": [0.5]}))
    with pytest.raises(DataError, match=r"a run on a table predicts from .*, not ndarray \(1, 2\) float64"):
        run.predict(np.zeros((1, 2)))


def test_images_are_predicted_as_by_the_command_from_files_arrays_and_tensors(verb, of_photos):
    run, folder = of_photos
    files = sorted(folder.glob("*.png"))
    expected = predicted_by(verb, run, folder)
    assert run.predict(files).equals(expected)
    arrays = [np.asarray(Image.open(file)) for file in files]
    expected = expected.drop("input")
    several = np.stack(arrays)
    assert run.predict(arrays).equals(expected) and run.predict(several).equals(expected)
    tensors = torch.from_numpy(several).permute(0, 3, 1, 2)
    assert run.predict(tensors).equals(expected) and run.predict(list(tensors)).equals(expected)
    for wrong in (several / 255, several[0], "nowhere", np.zeros((2, 2), np.uint8), 3):
        with pytest.raises(DataError, match=r"images are uint8|is one image|no file or folder|predicts from files"):
            run.predict(wrong)


def test_grey_images_in_the_range_of_the_run_are_what_its_own_are(of_python):
    from dltrain.data.bundled import digits

    run, images = of_python["digits"], digits().test.take(torch.arange(20))[0]
    answers = run.predict(images)
    assert answers.equals(run.predict(images[:, 0].numpy()))
    with torch.inference_mode():
        outputs = run.model(load(run.path)._loaded.transform(images)).argmax(1)
    assert answers["class"].to_list() == [str(number) for number in outputs.tolist()]


VALUES = [
    *(None, True, False, 0, -3, 10**12, 1e-05, 1e22, -0.5, float("inf"), 0.1 + 0.2),
    *("cnn", "", " a ", "a,b", "a=b", "it's", 'say "x"', "back\\slash\\", "[1]", "{a: 1}", "1", "1e5", "null", "True"),
    *("${optim.lr}", "\\${x}", "é ü", "#1", "a:b", "x\ny", "choice(1,2)", "~/data", "../up", "(", "*"),
    *([], [1, "a,b", None], [[1.5], {"a": True}], {}, {"a": {"b": ["x y"]}, "c-d": 1}, {1: "one"}),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_is_read_as_what_it_is(value):
    (override,) = OverridesParser.create().parse_overrides(overrides_of_values({"key": value}))
    cfg = OmegaConf.create({"key": None})
    OmegaConf.update(cfg, override.key_or_group, override.value())
    assert not override.is_sweep_override()
    read = OmegaConf.to_container(cfg, resolve=True)["key"]
    assert (read, type(read)) == (value, type(value))


def test_values_of_other_types_are_converted_or_refused():
    given = {
        "a": (1, 2),
        "b": np.float32(0.5),
        "c": np.int64(3),
        "d": np.bool_(True),
        "e": Path("x y"),
        "f": np.float64(1),
    }
    assert overrides_of_values(given) == ["a=[1,2]", "b=0.5", "c=3", "d=true", 'e="x y"', "f=1.0"]
    wrong = {"a": np.ones(2), "b": {1}, "c": [torch.ones(2)], "d": {"x:y": 1}, "e": {True: 1}, "f": 1j}
    with pytest.raises(ConfigError) as raised:
        train(**wrong)
    assert [text[0] for text in raised.value.problems] == list(wrong)
    assert raised.value.problems[0].endswith("not numpy.ndarray: write it as a list, .tolist()")


def test_what_is_wrong_is_an_exception_with_all_of_it(capfd):
    wrong = ["model=cnnn", "optim.momentun=0.9"]
    with pytest.raises(ConfigError) as raised:
        train(wrong, seed=-1)
    assert list(raised.value.problems) == check(wrong, seed=-1) and len(raised.value.problems) == 3
    with pytest.raises(ConfigError, match="cnnn"):
        compose("model=cnnn")
    with pytest.raises(ConfigError, match="these are several values"):
        train(["optim.lr=0.1,0.2"])
    for flags in (["-m", "seed=1,2"], ["--cfg", "job"], ["hydra.mode=MULTIRUN"]):
        with pytest.raises(ConfigError, match="is for the command line"):
            train(flags)
    with pytest.raises(ConfigError, match="only the command starts several processes"):
        train(SHORT, **{"trainer.devices": 2})
    with pytest.raises(UserError, match="there is no run 'nowhere'") as raised:
        load("nowhere")
    assert raised.value.problems == (str(raised.value),)
    with pytest.raises(TrainingError, match="loss"):
        train(SHORT, optim="sgd", **{"optim.lr": 1e30, "dataset": "diabetes"})
    assert capfd.readouterr().out == ""


def test_checking_reads_the_data_and_leaves_nothing(tmp_path, capfd):
    assert check(SHORT) == []
    (told,) = check(SHORT, dataset="table", **{"dataset.path": "nowhere.csv", "dataset.target": "y"})
    assert "nowhere.csv" in told
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().out == ""


def test_one_process_of_several_is_refused(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match="torchrun -m dltrain"):
        train(SHORT)


def state_of_the_process():
    """What belongs to whoever calls."""
    return {
        "process": (list(sys.argv), list(sys.path), dict(os.environ), os.getcwd(), sys.stdout, sys.stderr),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "python": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "torch": (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_float32_matmul_precision()),
        "flags": (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
        ),
        "logs": (list(logging.root.handlers), logging.root.level, list(logging._handlerList)),
        "hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg, OmegaConf.has_resolver("dltrain_unique")),
        "warnings": list(warnings.filters),
    }


def test_the_process_is_left_as_it_was(tmp_path, of_python):
    log = logging.FileHandler(tmp_path / "mine.log", mode="w")  # which, once closed, would write no more
    logging.root.addHandler(log)
    sys.path.append("theirs")
    try:
        before = state_of_the_process()
        train(SHORT, deterministic=False, trainer="debug", **{"trainer.threads": 2})
        load(of_python["digits"].path, ["seed=5"]).evaluate()
        of_python["diabetes"].predict(_FILES / "diabetes.csv")
        compose(), check(SHORT)
        with pytest.raises(UserError):
            train(SHORT, **{"dataset.val_fraction": 0, "trainer.checkpoint.monitor": "val/loss"})
        logging.root.warning("still here")
        assert state_of_the_process() == before
    finally:
        sys.path.remove("theirs")
        logging.root.removeHandler(log)
        log.close()
    assert (tmp_path / "mine.log").read_text() == "still here\n"


def test_the_first_run_of_a_process_draws_no_number_of_its_callers(tmp_path):
    script = (
        "import random, dltrain\n"
        "random.seed(3)\n"
        f"dltrain.train({SHORT!r})\n"
        "drawn = random.random()\n"
        "random.seed(3)\n"
        "assert drawn == random.random()"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


@pytest.fixture
def other_torch():
    """What notebooks set for themselves."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_the_caller_has_set_of_torch_neither_matters_nor_changes(other_torch, of_python, mode):
    images = np.zeros((2, 8, 8), np.uint8)
    with mode():
        run = train(SHORT)
        rows = run.predict(images)
        assert not torch.is_grad_enabled() and torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert torch.empty(1).dtype == torch.float64 and torch.empty(1).device.type == "meta"
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    again = train(SHORT)
    assert again.result["test"] == run.result["test"] and again.predict(images).equals(rows)


def test_nothing_goes_to_stdout_and_what_own_code_prints_to_stderr(capfd, monkeypatch):
    run = train(SHORT)
    run.evaluate(), run.predict(np.zeros((2, 8, 8), np.uint8)), check(SHORT), compose()
    captured = capfd.readouterr()
    assert captured.out == "" and "epoch 1/1" in captured.err and "\x1b" not in captured.err


@pytest.fixture
def at_step(monkeypatch):
    """Has a signal come behind a step."""

    def arm(step: int, number: int) -> None:
        real, taken = View.step, []

        def watched(self, total):
            real(self, total)
            taken.append(1)
            if len(taken) == step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(View, "step", watched)

    return arm


def test_an_interrupt_is_one_of_pythons_once_the_state_is_saved_and_the_run_goes_on(at_step):
    keys = {"trainer.epochs": 3, "dataset.limit": 100, "report": False}
    whole = train(model="mlp", **keys)
    at_step(6, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(model="mlp", **keys, **{"hydra.run.dir": "run"})
    assert json.loads(Path("run/result.json").read_text())["status"] == "interrupted"
    assert checkpoint.load(Path("run/checkpoints/last.pt"))["trainer"]["step"] == 6
    run = train(model="mlp", resume="auto", **keys, **{"hydra.run.dir": "run"})
    assert run.path == Path("run").resolve() and run.metrics.equals(whole.metrics)
    other = train(model="mlp", resume="run", **keys)  # there is nothing left to do
    assert other.path == run.path


def test_any_other_signal_reaches_whoever_has_handled_it_before(at_step, monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        at_step(1, signal.SIGTERM)
        with pytest.raises(Interrupted):
            train(SHORT)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_it_works_in_threads_and_within_a_running_loop():
    async def within_a_loop():
        return train(SHORT), await asyncio.to_thread(train, SHORT)

    with ThreadPoolExecutor(2) as pool:
        runs = [*pool.map(train, [SHORT, SHORT]), *asyncio.run(within_a_loop())]
    assert len({run.path for run in runs}) == 4
    assert all(run.metrics.equals(runs[0].metrics) for run in runs)


def test_own_code_is_trusted_in_what_was_just_trained_and_where_somebody_vouches(tmp_path):
    (tmp_path / "own_code.py").write_text(OWN_CODE)
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    for name in ("Net", "Leaving"):
        keys = "input_shape: ${data.input_shape}\nnum_outputs: ${data.num_outputs}\n"
        (tmp_path / "my_conf" / "model" / f"{name}.yaml").write_text(f"_target_: own_code.{name}\n{keys}")
    chosen = ["--config-dir=my_conf", *SHORT[:2], "report=false"]
    run = train(chosen, model="Net")
    image = np.zeros((1, 8, 8), np.uint8)
    answer = run.predict(image)
    with pytest.raises(ConfigError, match="would run code of 'own_code'"):
        load(run.path)
    assert load(run.path / "checkpoints" / "best.pt", trust=["own_code"]).predict(image).equals(answer)
    with pytest.raises(TrainingError, match=r"sys.exit\(I leave\)"):
        train(chosen, model="Leaving")


CELLS = [
    "import dltrain, os, signal, asyncio\nfrom dltrain.training.progress import View\n"
    f"run = dltrain.train({SHORT})\nrun.result['status']",
    f"await asyncio.sleep(0)\ndltrain.train({SHORT}).metrics.equals(run.metrics)",
    "def stop(self, total): os.kill(os.getpid(), signal.SIGINT)\nView.step = stop\n"
    f"try: dltrain.train({SHORT}, **{{'hydra.run.dir': 'run'}})\n"
    "except KeyboardInterrupt: stopped = os.path.exists('run/checkpoints/last.pt')\nstopped",
]


def test_a_notebook_shows_plain_lines_and_its_interrupt_saves_the_state(tmp_path):
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    notebook = new_notebook(cells=[new_code_cell(cell) for cell in CELLS])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    shown = "".join(output.text for output in outputs if output.output_type == "stream")
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stderr"}
    assert shown.count("epoch 1/1") == 2 and "\x1b" not in shown and "\r" not in shown
    answers = [output.data["text/plain"] for output in outputs if output.output_type == "execute_result"]
    assert answers == ["'done'", "True", "True"]
