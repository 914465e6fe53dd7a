"""The data sets that ship with dltrain; ``files/SOURCES.md`` names where each comes from."""

from collections.abc import Mapping
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import torch

from dltrain.data.base import Data, Fitted
from dltrain.data.images.labelled import DecodedImages, image_data
from dltrain.data.splits import Split
from dltrain.data.stated import Stated

_FILES = files("dltrain.data") / "files"


@Stated(task="classification", classes=10, held_out=True)
def digits(
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    limit: int | None = None,
    split_seed: int = 0,
    augment: Mapping[str, Any] | None = None,
) -> Data:
    """1,797 handwritten digits, grey, 8 × 8, values 0 to 16 (Alpaydin and Kaynak, UCI, 1998).

    ``test_fraction`` of all is the test part, ``val_fraction`` of the rest the validation part; the split depends
    on ``split_seed`` alone, so it is the same for every run.
    """
    with as_file(_FILES / "digits.npz") as path, np.load(path) as file:
        images = torch.from_numpy(file["images"]).unsqueeze(1)
        labels = torch.from_numpy(file["labels"]).long()
    return image_data(
        "digits",
        tuple("0123456789"),
        {"train": DecodedImages(labels, images)},
        split=Split(val_fraction, test_fraction, limit, split_seed),
        augment=augment,
        levels=16,
    )


@Stated(task="regression", held_out=True)
def diabetes(
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    limit: int | None = None,
    split_seed: int = 0,
    fitted: Fitted | None = None,
) -> Data:
    """Disease progression of 442 patients from ten measurements (Efron et al., 2004): a regression table."""
    from dltrain.data.table import table  # here, so that digits need not import the table reader

    with as_file(_FILES / "diabetes.csv") as path:
        return table(
            path=str(path),
            target="progression",
            task="regression",
            categorical=["sex"],
            name="diabetes",
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            limit=limit,
            split_seed=split_seed,
            fitted=fitted,
        )


@Stated(task="regression", held_out=True)
def sunspots(
    window: int = 48,
    horizon: int = 12,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    limit: int | None = None,
    fitted: Fitted | None = None,
) -> Data:
    """Monthly mean sunspot numbers, 1749 to 1983: 2,820 steps."""
    from dltrain.data.series import series  # here, so that digits need not import the table reader

    with as_file(_FILES / "sunspots.csv") as path:
        return series(
            path=str(path),
            target="sunspots",
            time="month",
            name="sunspots",
            window=window,
            horizon=horizon,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            limit=limit,
            fitted=fitted,
        )
