"""``dltrain export``: write the network of a run to a file that runs without dltrain."""

from collections.abc import Sequence
from pathlib import Path

from dltrain.commands.arguments import require_choice, run_of, take_keys
from dltrain.errors import UserError
from dltrain.runs.find import path_of
from dltrain.system.answer import on_terminal, print_json, say
from dltrain.system.extras import require_extras
from dltrain.system.log import log_to

_SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "state_dict": ".pt", "safetensors": ".safetensors"}
_EXTRAS = {"onnx": ("onnx", ("onnx", "onnxscript", "onnxruntime")), "safetensors": ("safetensors", ("safetensors",))}


def export(arguments: Sequence[str]) -> None:
    """Write the network of a run to a file, which is kept only if it gives the same outputs.

    Raises:
        UserError: there is no such run or format, a library is missing, or the file cannot be written.
        DltrainError: the file gives other outputs than the run's network.
    """
    words, given = take_keys(arguments, ["format", "out"])
    run, overrides = run_of(words, "dltrain export RUN [format=onnx] [out=FILE]")
    format, out = _format_of(given)
    if format in _EXTRAS:
        extra, modules = _EXTRAS[format]
        require_extras(modules, extra, f"format={format}")
    if out and not out.absolute().parent.is_dir():
        raise UserError(f"out={out}: there is no folder '{out.parent}'")

    from dltrain.trained.export import BATCHES
    from dltrain.trained.export import export as write
    from dltrain.trained.loaded import load_run

    log_to(None)
    loaded = load_run(run, [*overrides, "device=cpu"])  # where a file is to run, and where it can be compared
    out = out or loaded.folder / f"model{_SUFFIXES[format]}"
    if out.absolute().parent.resolve() == loaded.checkpoint.parent:
        raise UserError(f"out={out}: this folder is for checkpoints, to which nothing else may be added")
    difference = write(loaded, format, out)
    if on_terminal():
        how = (
            f"gives what the network of the run gives, within {difference:.1e}"
            if difference
            else "is equal to the run's"
        )
        say(f"{out}\nwas run with batches of {', '.join(map(str, BATCHES))}, and {how}")
        return
    answer = {"status": "done", "run": str(loaded.folder), "checkpoint": str(loaded.checkpoint), "out": str(out)}
    print_json({**answer, "format": format, "batches": BATCHES, "difference": difference})


def _format_of(given: dict[str, str]) -> tuple[str, Path | None]:
    """Return the format, by ``format=`` or the suffix of ``out=``, and the file, if one is named."""
    out = path_of(given["out"]) if "out" in given else None
    by_suffix = {suffix: format for format, suffix in _SUFFIXES.items()}
    format = given.get("format") or (by_suffix.get(out.suffix, "onnx") if out else "onnx")
    require_choice("format", format, _SUFFIXES)
    if out and out.suffix != _SUFFIXES[format]:
        raise UserError(f"out={out} must end with {_SUFFIXES[format]} for format={format}")
    return format, out
