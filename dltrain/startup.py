"""torch without its compiler, until somebody compiles."""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

_NAME = "torch._dynamo"


class _Deferred(ModuleType):
    """Stands for ``torch._dynamo`` until more is asked of it than what every optimizer asks.

    torch imports its compiler, which takes as long as torch itself, when the first optimizer is made, only to call
    two functions that do nothing outside of a compilation. Anything else that is asked for, a submodule included,
    imports the real module and puts it in this one's place.
    """

    def graph_break(self, msg: str = "") -> None:
        """Nothing is being compiled, so there is no graph to break."""

    def disable(self, fn: Callable[..., Any], recursive: bool = True, *, wrapping: bool = True) -> Callable[..., Any]:
        """Nothing is being compiled, so there is nothing to keep ``fn`` out of."""
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # `inspect` looks at every module's __file__, at any moment
            raise AttributeError(name)
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
            torch._dynamo = importlib.import_module(_NAME)
        return getattr(sys.modules[_NAME], name)


def defer_compiler() -> None:
    """Keep torch from importing its compiler before it is used; a no-op where that has happened."""
    if _NAME not in sys.modules:
        sys.modules[_NAME] = torch._dynamo = _Deferred(_NAME)
