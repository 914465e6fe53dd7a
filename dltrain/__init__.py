"""Train neural networks from the command line or from Python: Hydra groups in, a trained network with its curves out.

``dltrain.train``, ``load``, ``compose`` and ``check`` are those of :mod:`dltrain.commands.api`, which is imported, and
torch with it, once they are used.
"""

TYPE_CHECKING = False  # as type checkers take it; to import `typing` would take as long as all of this
if TYPE_CHECKING:
    from dltrain.commands.api import Run, check, compose, load, train

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "check", "compose", "load", "train"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'dltrain' has no attribute '{name}'")
    from dltrain.commands import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
