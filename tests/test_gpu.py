"""What holds on a CUDA device; skipped where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.data.image_folder import image_folder
from dltrain.data.loader import Loader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SHORT = ("trainer.epochs=2", "dataset.limit=200", "device=cuda")


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]


def test_deterministic_runs_are_bitwise_equal(dltrain):
    runs = [dltrain(*SHORT, "deterministic=true", "model.dropout=0.2") for _ in range(2)]
    assert [run.code for run in runs] == [0, 0]
    one, other = (final_weights(run.folder) for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns_the_digits(dltrain, precision):
    assert dltrain("device=cuda", f"trainer.precision={precision}").result["test"]["accuracy"] >= 0.97


def test_compiled_training_learns_the_digits(dltrain):
    assert dltrain("device=cuda", "trainer.compile=true").result["test"]["accuracy"] >= 0.97


@pytest.mark.parametrize("place", ["resident", "host", "stream"])
def test_batches_are_the_same_wherever_the_samples_lie(tmp_path, place):
    draw = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{number}.png")
    options = {"image_size": 8, "augment": {"crop": 2, "flip": True}}

    def batches(place: str, device: torch.device) -> list[torch.Tensor]:
        data = image_folder(str(tmp_path), cache="none" if place == "stream" else "memory", **options)
        samples = data.train.to(device) if place == "resident" else data.train
        loader = Loader(samples, 7, data.transform, device, 5, data.augment, resident=place == "resident")
        return [tensor.cpu() for batch in loader for tensor in batch]

    expected = batches("resident", torch.device("cpu"))
    for one, other in zip(batches(place, torch.device("cuda")), expected, strict=True):
        torch.testing.assert_close(one, other)
