"""Each logger against the library that reads what it wrote."""

import csv
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.data.bundled import digits
from dltrain.loggers import Loggers, flatten
from dltrain.loggers.csv import CSVLogger
from dltrain.runs import checkpoint

ROWS = [
    {"epoch": 1, "step": 10, "lr": 0.1, "train/loss": 2.5, "val/accuracy": 0.25},
    {"epoch": 2, "step": 20, "lr": 0.05, "train/loss": 1.25, "val/accuracy": 0.5},
]
CONFIG = {"optim": {"lr": 0.1, "betas": [0.9, 0.999]}, "seed": 1, "data": {"name": "digits", "class_names": None}}
RESULT = {"test/accuracy": 0.75}


def test_csv_has_a_row_an_epoch_that_is_there_as_soon_as_it_is_logged(tmp_path):
    logger = CSVLogger(tmp_path, CONFIG)
    for count, row in enumerate(ROWS, 1):
        logger.log(row)
        with open(tmp_path / "metrics.csv", newline="") as file:
            read = list(csv.DictReader(file))
        assert len(read) == count
        assert list(read[-1]) == list(row)
        assert {name: float(value) for name, value in read[-1].items()} == row
    logger.close(RESULT)


def test_tensorboard_reads_every_metric_and_the_hyper_parameters(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from dltrain.loggers.tensorboard import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path, CONFIG)
    for row in ROWS:
        logger.log(row)
    logger.close(RESULT)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("step", "lr", "train/loss", "val/accuracy"):
        read = [(event.step, event.value) for event in events.Scalars(name)]
        assert read == [(row["epoch"], pytest.approx(row[name])) for row in ROWS]
    assert events.Scalars("test/accuracy")[0].value == 0.75
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")


def tensorboard_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), {"images": 0, "histograms": 0, "scalars": 0}).Reload()


def test_tensorboard_shows_the_first_images_of_the_training_part(dltrain):
    outcome = dltrain("logger=tensorboard", "logger.tensorboard.pictures=5", "trainer.epochs=1", "dataset.limit=16")
    (shown,) = tensorboard_of(outcome.folder).Images("train/images")
    with Image.open(io.BytesIO(shown.encoded_image_string)) as image:
        pixels = np.asarray(image.convert("L"))
    images = digits(limit=16).train.take(torch.arange(5))[0][:, 0].float() / 16 * 255
    assert pixels.shape == (8, 5 * 8)
    np.testing.assert_allclose(pixels, np.hstack(images.numpy()), atol=1)


@pytest.mark.parametrize("data", [["logger.tensorboard.pictures=0"], ["dataset=diabetes"]], ids=["none", "a table"])
def test_tensorboard_shows_no_images_where_there_are_none_or_none_are_wanted(dltrain, data):
    outcome = dltrain("logger=tensorboard", *data, "trainer.epochs=1", "dataset.limit=16")
    assert outcome.code == 0
    assert "warning" not in outcome.stderr
    tags = tensorboard_of(outcome.folder).Tags()
    assert (tags["images"], tags["histograms"]) == ([], [])


def test_tensorboard_has_histograms_of_the_weights_every_so_many_epochs(dltrain):
    outcome = dltrain("logger=tensorboard", "logger.tensorboard.histograms=2", "trainer.epochs=4", "dataset.limit=16")
    events = tensorboard_of(outcome.folder)
    state = checkpoint.load(outcome.folder / "checkpoints/last.pt")["trainer"]["model"]
    bias = state["classifier.1.bias"].double()
    second, last = events.Histograms("weights/classifier.1.bias")
    assert (second.step, last.step) == (2, 4)
    assert last.histogram_value.num == len(bias)
    assert last.histogram_value.sum == pytest.approx(float(bias.sum()))
    assert last.histogram_value.max == pytest.approx(float(bias.max()))


def test_a_rewound_logger_watches_again_and_one_that_only_takes_numbers_is_left_alone():
    watched, rows = [], []

    class Numbers:
        def log(self, row):
            rows.append(row)

        def close(self, result):
            pass

    class Watching(Numbers):
        def watch(self, model, images):
            watched.append((model, images(3)))

    loggers = Loggers({"numbers": lambda history: Numbers(), "watching": lambda history: Watching()})
    model = torch.nn.Identity()
    loggers.watch(model, lambda count: None)
    loggers.log(ROWS[0])
    loggers.rewind([])
    loggers.log(ROWS[1])
    assert watched == [(model, None)] * 2
    assert rows == [ROWS[0], ROWS[0], ROWS[1], ROWS[1]]


def test_tensorboard_of_a_resumed_run_has_each_epoch_and_the_images_once(tmp_path):
    from dltrain.loggers.tensorboard import TensorBoardLogger

    images = torch.zeros(2, 1, 4, 4)
    killed = TensorBoardLogger(tmp_path, CONFIG)
    killed.watch(torch.nn.Identity(), lambda count: images)
    for row in ROWS:
        killed.log(row)
    killed.close({})
    resumed = TensorBoardLogger(tmp_path, CONFIG, ROWS[:1])  # its checkpoint knew the first epoch only
    resumed.watch(torch.nn.Identity(), lambda count: images)
    resumed.log(ROWS[1] | {"train/loss": 1.0})
    resumed.close(RESULT)
    events = tensorboard_of(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.5), (2, 1.0)]
    assert len(events.Images("train/images")) == 1


@pytest.mark.filterwarnings("ignore")  # mlflow's own imports warn
def test_mlflow_reads_parameters_metrics_and_the_status(tmp_path):
    from mlflow.tracking import MlflowClient

    from dltrain.loggers.mlflow import MLflowLogger

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for result in (RESULT, {}):
        logger = MLflowLogger(tmp_path, CONFIG, experiment="some", tracking_uri=uri)
        for row in ROWS:
            logger.log(row)
        logger.close(result)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("some")
    failed, done = client.search_runs([experiment.experiment_id])
    assert (failed.info.status, done.info.status) == ("FAILED", "FINISHED")
    assert done.data.params["optim.betas"] == "[0.9, 0.999]"
    assert done.data.metrics["test/accuracy"] == 0.75
    read = [(metric.step, metric.value) for metric in client.get_metric_history(done.info.run_id, "train/loss")]
    assert read == [(1, 2.5), (2, 1.25)]


@pytest.fixture
def wandb_flushed():
    """Ends wandb's service process and waits for it: only then is a run's file whole, as at the end of a program."""

    def flush():
        import wandb

        wandb.teardown()

    return flush


def wandb_records(path: Path) -> list[bytes]:
    """The records of a .wandb file, which is a LevelDB log behind a header of 7 bytes: blocks of 32 KiB, chunks with
    a head of checksum (4 bytes), length (2) and type (1 whole, 2 first, 3 middle, 4 last)."""
    content, records, position = path.read_bytes(), [b""], 7
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        records[-1] += content[position + 7 : position + 7 + length]
        records += [b""] if kind in (1, 4) else []
        position += 7 + length
    return records[:-1]


@pytest.mark.filterwarnings("ignore")  # wandb's own imports warn
def test_wandb_offline_writes_a_run_that_its_own_records_can_be_read_from(tmp_path, wandb_flushed):
    from wandb.proto import wandb_internal_pb2

    from dltrain.loggers.wandb import WandbLogger

    logger = WandbLogger(tmp_path, CONFIG)
    for row in ROWS:
        logger.log(row)
    logger.close(RESULT)
    wandb_flushed()
    (path,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    losses = []
    for content in wandb_records(path):
        record = wandb_internal_pb2.Record.FromString(content)
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        losses += [float(items["train/loss"])] if "train/loss" in items else []
    assert losses == [2.5, 1.25]


@pytest.mark.filterwarnings("ignore")  # wandb's own imports warn
def test_wandb_goes_on_with_the_run_that_was_resumed(tmp_path, wandb_flushed):
    from wandb.proto import wandb_internal_pb2

    from dltrain.loggers.wandb import WandbLogger

    for history, row, result in (([], ROWS[0], {}), (ROWS[:1], ROWS[1], RESULT), ([], ROWS[0], RESULT)):
        logger = WandbLogger(tmp_path, CONFIG, history)
        logger.log(row)
        logger.close(result)
    wandb_flushed()
    logged = []
    for path in sorted(
        (tmp_path / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns
    ):
        records = [wandb_internal_pb2.Record.FromString(content) for content in wandb_records(path)]
        (name,) = {record.run.run_id for record in records if record.run.run_id}
        for record in records:
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            logged += [(name, int(items["epoch"]), int(items["_step"]))] if "epoch" in items else []
    (first, second, other), epochs, steps = zip(*logged, strict=True)
    assert first == second != other
    assert epochs == steps == (1, 2, 1)


def test_flatten_joins_keys_with_dots_and_keeps_plain_values():
    assert flatten(CONFIG | {"pruner": {}}) == {
        "optim.lr": 0.1,
        "optim.betas": "[0.9, 0.999]",
        "seed": 1,
        "data.name": "digits",
        "data.class_names": "None",
    }


def test_loggers_by_their_configuration_write_side_by_side(dltrain, tmp_path: Path):
    outcome = dltrain("logger=[csv,tensorboard]", "trainer.epochs=2", "dataset.limit=16")
    assert outcome.code == 0
    assert len((outcome.folder / "metrics.csv").read_text().splitlines()) == 3
    assert list((outcome.folder / "tensorboard").iterdir())
    none = dltrain("logger=none", "trainer.epochs=1", "dataset.limit=16")
    assert none.code == 0
    assert not (none.folder / "metrics.csv").exists()
