"""What a data set states of itself before it is read, so that its configuration can be checked. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Stated:
    """Decorates a class or function that makes a data set with what is known of it before; all of it may be left out.

    Args:
        task: where it is always the same.
        classes: how many there are.
        held_out: its validation part is what ``val_fraction`` holds out, so that there is none with 0.
        files: of each key that names a file, what that must be, such as ``a CSV or Parquet file``.
        folders: of each key that names a folder, what that must hold, such as ``train/<class>/<images>``.

    Each is written as a constant: dltrain reads its data sets' without importing them.
    """

    task: Literal["classification", "regression"] | None = None
    classes: int | None = None
    held_out: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, target: T) -> T:
        target.stated = self  # type: ignore[attr-defined]
        return target


def stated_by(target: Any) -> Stated:
    """What a class or function states, by default nothing."""
    stated = getattr(target, "stated", None)
    return stated if isinstance(stated, Stated) else Stated()
