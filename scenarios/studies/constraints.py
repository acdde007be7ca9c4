"""Constraints of a study: arithmetic and comparisons over its axes, and nothing else that Python can do."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Value: TypeAlias = float | str | bool

MAX_LENGTH = 500
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class ConstraintError(ValueError):
    """An expression that is none, or cannot be computed."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """An expression that must be true of a cell.

    Attributes:
        text: As written.
        names: Axes that it speaks of, in order of appearance.
    """

    text: str
    names: tuple[str, ...]
    _body: ast.expr

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether it is true.

        Args:
            values: Axis -> number (quantities in SI units), text or flag.

        Raises:
            ConstraintError: Operands that do not go together, or a division by zero.
        """
        try:
            return bool(_value(self._body, values))
        except (TypeError, ArithmeticError) as error:
            told = ", ".join(f"{name} = {values[name]!r}" for name in self.names)
            raise ConstraintError(f"it cannot be computed for {told}: {error}") from None


def read_constraint(text: str) -> Constraint:
    """An expression of names, numbers, texts, ``+ - * /``, comparisons, ``and``, ``or``, ``not`` and brackets.

    Raises:
        ConstraintError: Anything else is in it.
    """
    if len(text) > MAX_LENGTH:
        raise ConstraintError(f"it is longer than {MAX_LENGTH} characters")
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConstraintError("it is no expression, such as l4 + t4 <= 12") from None
    names: dict[str, None] = {}
    _check(body, names)
    return Constraint(text, tuple(names), body)


def _check(node: ast.expr, names: dict[str, None]) -> None:
    match node:
        case ast.Name(id=name):
            names[name] = None
        case ast.Constant(value=bool() | int() | float() | str()):
            pass
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            _check(left, names)
            _check(right, names)
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            _check(operand, names)
        case ast.BoolOp(values=parts):
            for part in parts:
                _check(part, names)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
            for part in (left, *others):
                _check(part, names)
        case _:
            raise ConstraintError(
                "it may hold axes, numbers, texts, + - * /, comparisons, and, or, not and brackets only"
            )


def _value(node: ast.expr, values: Mapping[str, Value]) -> Any:
    match node:
        case ast.Name(id=name):
            return values[name]
        case ast.Constant(value=value):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            first, second = _value(left, values), _value(right, values)
            if isinstance(first, str) or isinstance(second, str):
                raise TypeError("texts cannot be added or multiplied")
            return _ARITHMETIC[type(op)](first, second)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, values)
        case ast.UnaryOp(operand=operand):
            return -_value(operand, values)
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_value(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_value(part, values) for part in parts)
        case ast.Compare(left=left, ops=ops, comparators=others):
            first = _value(left, values)
            for comparison, other in zip(ops, others, strict=True):
                second = _value(other, values)
                if not _COMPARISONS[type(comparison)](first, second):
                    return False
                first = second
            return True
    raise AssertionError(f"{ast.dump(node)} was checked")
