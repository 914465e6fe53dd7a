"""torch without its compiler, until something is compiled."""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

_NAME = "torch._dynamo"


class _Part:
    """Stands for a submodule of ``torch._dynamo`` with the ``functions`` that are called outside of a compilation."""

    def __init__(self, name: str, **functions: Callable[[], Any]):
        self.__name__ = name
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(_imported(), self.__name__), name)


class _Deferred(ModuleType):
    """Stands for ``torch._dynamo`` until more of it is used than optimizers and process groups do.

    torch imports its compiler, which takes longer than torch itself, when the first optimizer is made, only to call
    functions that do nothing outside of a compilation. Any other attribute, a submodule included, imports the real
    module and replaces this one.
    """

    utils = _Part("utils", get_optimize_ddp_mode=lambda: "ddp_optimizer")  # torch's default
    trace_rules = _Part("trace_rules", clear_lru_cache=lambda: None)  # there is nothing in it yet

    def graph_break(self, msg: str = "") -> None:
        """Nothing is being compiled, so there is no graph to break."""

    def disable(self, fn: Callable[..., Any], recursive: bool = True, *, wrapping: bool = True) -> Callable[..., Any]:
        """Nothing is being compiled, so there is nothing to keep ``fn`` out of."""
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # `inspect` looks at every module's __file__, at any moment
            raise AttributeError(name)
        return getattr(_imported(), name)


def _imported() -> Any:
    """The real module, which replaces the one that stands for it."""
    if isinstance(sys.modules.get(_NAME), _Deferred):
        del sys.modules[_NAME]
        torch._dynamo = importlib.import_module(_NAME)
    return sys.modules[_NAME]


def defer_compiler() -> None:
    """Keep torch from importing its compiler before it is used; a no-op where that has happened."""
    if _NAME not in sys.modules:
        sys.modules[_NAME] = torch._dynamo = _Deferred(_NAME)
