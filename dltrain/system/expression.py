"""Arithmetic in a string, evaluated without ``eval``. Imports no torch."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from dltrain.errors import ConfigError, did_you_mean

_FUNCTIONS = {
    "abs": abs,
    "min": min,
    "max": max,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
    "floor": math.floor,
    "ceil": math.ceil,
}
_PROBES = 1000  # points of the run at which a schedule's expression is tried before training


class Expression:
    """An arithmetic expression in a single variable, safe to evaluate from any file: by simpleeval, never by ``eval``.

    It may hold numbers, ``+ - * / // % **``, comparisons, ``and or not``, ``x if condition else y``, ``pi`` and the
    functions ``abs min max exp log sqrt sin cos floor ceil``. Anything else is refused at once.
    """

    def __init__(self, text: str, variable: str):
        # simpleeval is small, but only runs with scheduler=lambda need it.
        from simpleeval import SimpleEval

        self.text = text
        self.variable = variable
        self._names = {"pi": math.pi, variable: 0}
        self._evaluator = SimpleEval(operators=_OPERATORS, functions=_FUNCTIONS, names=self._names)
        try:
            self._parsed = ast.parse(text.strip(), mode="eval").body
        except Exception as error:  # the text is the user's: whatever is wrong with it is wrong with the key
            cause = error.msg if isinstance(error, SyntaxError) else str(error)
            raise self._problem(f"this is no expression: {cause or type(error).__name__}") from error
        for node in ast.walk(self._parsed):
            self._require_known(node)

    def __call__(self, value: int) -> float:
        """The expression at ``value``; raises :class:`ConfigError` unless it is a finite number, zero or above."""
        self._names[self.variable] = value
        try:
            result = self._evaluator.eval(self.text, previously_parsed=self._parsed)
            usable = isinstance(result, int | float) and math.isfinite(result) and result >= 0
        except Exception as error:  # simpleeval raises many kinds, the functions ValueError and OverflowError
            # Python's message for 0 ** -0.5 speaks of a power.
            known: dict[type[Exception], str] = {
                ZeroDivisionError: "it divides by zero",
                OverflowError: "it is too large a number",
            }
            cause = known.get(type(error)) or (error.args[-1] if error.args else type(error).__name__)
            at_start = value == 0 and isinstance(error, ZeroDivisionError | ValueError)
            hint = f"; {self.variable} starts at 0, so perhaps ({self.variable} + 1) is meant" if at_start else ""
            raise self._problem(f"at {self.variable} {value}: {cause}{hint}") from error
        if not usable:
            raise self._problem(f"at {self.variable} {value} it is {result!r}, not a finite number of at least 0")
        return float(result)

    def check(self, length: int) -> None:
        """Evaluate it over a run of ``length`` intervals: all of a short run, evenly spaced ones of a long run."""
        for value in sorted({*range(0, length, max(length // _PROBES, 1)), *range(min(length, 100)), length}):
            self(value)

    def _require_known(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            known = [*self._names, *_FUNCTIONS]
            if node.id not in known:
                hint = did_you_mean(node.id, known)
                raise self._problem(f"'{node.id}' is no name here, the variable is {self.variable}{hint}")
        elif isinstance(node, ast.BitXor):
            raise self._problem("a power is **, not ^")
        elif not isinstance(node, _SYNTAX) or (isinstance(node, ast.Constant) and not _is_number(node.value)):
            raise self._problem(self._unknown(node))

    def _unknown(self, node: ast.AST) -> str:
        if isinstance(node, ast.Attribute) and node.attr in _FUNCTIONS:
            return f"write {node.attr}(...) without {ast.unparse(node.value)} and a dot"
        if isinstance(node, ast.Lambda):
            return f"write the expression alone, in {self.variable}, without lambda"
        known = ", ".join(_FUNCTIONS)
        wrong = ast.unparse(node) if isinstance(node, ast.expr) else f"the operator {type(node).__name__}"
        return f"{wrong} is not arithmetic: it takes numbers, {self.variable}, + - * / // % **, comparisons and {known}"

    def _problem(self, cause: str) -> ConfigError:
        return ConfigError([f"scheduler.lr_lambda='{self.text}': {cause}"])


def _power(base: float, exponent: float) -> Any:
    # In floating point: whole numbers would grow until 9**9**9 had eaten the memory.
    return float(base) ** exponent


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_SYNTAX = (
    *(ast.Constant, ast.Load, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.boolop, ast.Compare, ast.IfExp, ast.Call),
    *_OPERATORS,
)
