"""Settings files: Python assignments of plain values, read and not run.

All of it is bounded: the file, texts, depth and work.
"""
from __future__ import annotations

import ast
import logging
import os
import pathlib
import re
import string
from collections.abc import Callable
from typing import Any

from .errors import StorytellerError, shown

_log = logging.getLogger(__name__)

NAMES = ("FLAG_CPU_MODE", "paths", "styles", "telling")     # that mean something in settings

_LARGEST = 1 << 16      # bytes of a file
_LONGEST = 1 << 13      # characters of a text
_DEEPEST = 100          # expressions within each other
_MOST_WORK = 1 << 22    # characters and items that are handled in all
_SPEC = re.compile(r"(.?[<>=^])?[-+ ]?#?0?\d{0,3},?(\.\d{1,3})?[a-zA-Z%]?", re.DOTALL)
_PERCENT = re.compile(r"%(?:%|[-+ 0#]*\d{0,3}(?:\.\d{0,3})?[sdifrx])")

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"os.path.{name}": getattr(os.path, name)
       for name in ("join", "expanduser", "expandvars", "dirname", "basename", "abspath", "realpath", "normpath",
                    "exists", "isdir", "isfile")},
    "os.getcwd": os.getcwd, "os.environ.get": os.environ.get, "os.getenv": os.getenv, "dict": dict,
    "pathlib.Path": pathlib.Path}
_CONSTANTS = {"os.sep": os.sep, "os.path.sep": os.sep, "os.curdir": os.curdir, "os.pardir": os.pardir}
_METHODS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (str, ("strip", "rstrip", "lstrip", "lower", "upper", "join")), (dict, ("update",)),
    (pathlib.PurePath, ("joinpath", "resolve", "absolute", "expanduser", "as_posix")))


def current_folder() -> str:
    """The working folder; '' where it was deleted: only whole paths are of use then."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def read_source(path: str) -> bytes:
    """A settings file as it is, or a little more than the largest that is read."""
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST + 1)
    except OSError as error:
        raise StorytellerError(f"{path}: the settings file cannot be read ({error.strerror}); check its "
                               "permissions") from error


def read_settings(path: str) -> dict[str, Any]:
    """The names that a settings file assigns.

    Raises
    ------
    StorytellerError
        If it cannot be read, or holds something else than assignments of plain values and joined paths.
    """
    source = read_source(path)
    if len(source) > _LARGEST:
        raise StorytellerError(f"{path}: is larger than {_LARGEST} bytes: expected settings, such as "
                               "paths['vgg'] = 'vgg19.pkl'")
    try:
        tree = ast.parse(source, path)
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError) as error:
        raise StorytellerError(f"{path}: not a settings file: {str(error)[:200] or 'too complex'}") from error
    found = _Interpreter(path)
    try:
        found.block(tree.body)
    except _NotUnderstood as error:
        raise StorytellerError(
            f"{path}, line {error.line}: {error.why or 'this'} cannot be understood in settings, which are "
            "read and not run: give plain values, such as paths['vgg'] = 'vgg19.pkl'") from error
    if found.skipped:
        _log.warning("%s: is read and not run; what it defines is left out (%s)", path, ", ".join(found.skipped[:5]))
    return found.names


class _NotUnderstood(Exception):
    """Of a node of the file."""

    def __init__(self, node: ast.AST, why: str = ""):
        self.line, self.why = getattr(node, "lineno", "?"), why


class _Interpreter:
    """Understands statements; what they assign is in ``names``, what they define in ``skipped``."""

    def __init__(self, path: str):
        self._path = path
        self.names: dict[str, Any] = {"__file__": os.path.join(current_folder(), path), "__name__": "config"}
        self.skipped: list[str] = []
        self._imported = {"os": "os", "dict": "dict", "print": "print"}     # name -> what it stands for
        self._depth = self._work = 0

    def block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            try:
                self._statement(statement)
            except (TypeError, ValueError, OverflowError, OSError, RuntimeError, LookupError) as error:
                raise _NotUnderstood(statement) from error  # such as a list for a key

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self.skipped.append(node.name)
            self._forget(node, node.name)
        elif isinstance(node, ast.If):
            self.block(node.body if self._value(node.test) else node.orelse)
        elif isinstance(node, ast.Assign):
            value = self._value(node.value)
            for target in node.targets:
                self._assign(target, value)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._assign(node.target, self._value(node.value))
        elif isinstance(node, ast.AugAssign):
            self._assign(node.target, self._value(ast.copy_location(ast.BinOp(node.target, node.op, node.value), node)))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if self._dotted(node.value.func) != "print":
                self._value(node.value)
        elif not (isinstance(node, ast.Pass) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            raise _NotUnderstood(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or (alias.name if isinstance(node, ast.ImportFrom) else alias.name.partition(".")[0])
            if name == "*" or name in NAMES:
                raise _NotUnderstood(node, "settings of another file")
            self._forget(node, name)
            if isinstance(node, ast.ImportFrom):
                self._imported[name] = f"{node.module}.{alias.name}"
            else:
                self._imported[name] = alias.name if alias.asname else name

    def _forget(self, node: ast.AST, name: str) -> None:
        if name in NAMES:
            raise _NotUnderstood(node, name)
        self.names.pop(name, None)
        self._imported.pop(name, None)

    def _assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self._imported.pop(target.id, None)
            self.names[target.id] = value
            return
        container = self._value(target.value) if isinstance(target, ast.Subscript) else None
        if not isinstance(container, dict):
            raise _NotUnderstood(target)
        container[self._value(target.slice)] = value    # type: ignore[attr-defined]

    def _value(self, node: ast.AST) -> Any:
        self._depth += 1
        try:
            if self._depth > _DEEPEST:
                raise _NotUnderstood(node, "an expression so deep")
            value = self._understood(node)
        finally:
            self._depth -= 1
        size = len(value) if isinstance(value, (str, dict, list, tuple)) else 0
        self._work += size + 1
        if isinstance(value, str) and size > _LONGEST:
            raise _NotUnderstood(node, f"a text of {size} characters")
        if isinstance(value, int) and value.bit_length() > 64:
            raise _NotUnderstood(node, "so large a number")
        if self._work > _MOST_WORK:
            raise _NotUnderstood(node, "so much")
        return value

    def _understood(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.Name, ast.Attribute)):
            return self._named(node)
        if isinstance(node, ast.Dict):
            made: dict[Any, Any] = {}
            for key, item in zip(node.keys, node.values):
                value = self._value(item)
                made.update(value if key is None else {self._value(key): value})
            return made
        if isinstance(node, (ast.List, ast.Tuple)):
            items = [*map(self._value, node.elts)]
            return items if isinstance(node, ast.List) else tuple(items)
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left), self._value(node.right)
            if isinstance(node.op, ast.Add) and isinstance(left, str) and isinstance(right, str):
                return left + right
            if isinstance(node.op, ast.Div) and isinstance(left, pathlib.PurePath):
                return left / right
            if isinstance(node.op, ast.Mod) and isinstance(left, str) and "%" not in _PERCENT.sub("", left):
                return left % _scalars(*(right if isinstance(right, tuple) else (right,)))
        if isinstance(node, ast.UnaryOp):
            operand = self._value(node.operand)
            if isinstance(node.op, ast.Not):
                return not operand
            if isinstance(node.op, ast.USub) and isinstance(operand, (int, float)):
                return -operand
        if isinstance(node, ast.BoolOp):
            wanted = isinstance(node.op, ast.Or)
            for operand in node.values:
                value = self._value(operand)
                if bool(value) is wanted:
                    break
            return value
        if isinstance(node, ast.IfExp):
            return self._value(node.body if self._value(node.test) else node.orelse)
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            sides = self._value(node.left), self._value(node.comparators[0])
            if all(isinstance(side, (str, int, float, type(None))) for side in sides):
                return (sides[0] == sides[1]) is isinstance(node.ops[0], ast.Eq)
        if isinstance(node, ast.Subscript):
            key = self._value(node.slice)
            if self._dotted(node.value) == "os.environ" and isinstance(key, str):
                if key not in os.environ:
                    raise StorytellerError(f"{self._path}, line {node.lineno}: the environment variable {shown(key)} "
                                           f"is not set; set it, or write os.environ.get({shown(key)}, '...')")
                return os.environ[key]
            container = self._value(node.value)
            if isinstance(container, (dict, list, tuple)):
                return container[key]
        if isinstance(node, ast.JoinedStr):
            return "".join(self._field(part) if isinstance(part, ast.FormattedValue) else self._value(part)
                           for part in node.values)
        if isinstance(node, ast.Call):
            return self._call(node)
        raise _NotUnderstood(node)

    def _field(self, node: ast.FormattedValue) -> str:
        """What stands in braces in an f-string."""
        conversion = "" if node.conversion < 0 else f"!{chr(node.conversion)}"
        spec = self._value(node.format_spec) if node.format_spec else ""
        return _format(f"{{0{conversion}:{spec}}}", self._value(node.value))

    def _dotted(self, node: ast.AST) -> str:
        """What a name such as os.path.join stands for; '' where it is no name."""
        names: list[str] = []
        while isinstance(node, ast.Attribute) and len(names) < 5:
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self._imported:
            return ""
        return ".".join([self._imported[node.id], *reversed(names)])

    def _named(self, node: ast.Name | ast.Attribute) -> Any:
        if isinstance(node, ast.Name) and node.id in self.names:
            return self.names[node.id]
        dotted = self._dotted(node)
        if dotted in _CONSTANTS:
            return _CONSTANTS[dotted]
        if isinstance(node, ast.Attribute) and node.attr == "parent" and not dotted:
            value = self._value(node.value)
            if isinstance(value, pathlib.PurePath):
                return value.parent
        raise _NotUnderstood(node, "a name that the file does not assign" if isinstance(node, ast.Name) else "")

    def _call(self, node: ast.Call) -> Any:
        values = [self._value(value) for value in node.args]
        named: dict[str, Any] = {}
        for word in node.keywords:
            value = self._value(word.value)
            named.update(value if word.arg is None else {word.arg: value})
        dotted = self._dotted(node.func)
        if dotted in _FUNCTIONS:
            return _FUNCTIONS[dotted](*values, **named)
        if isinstance(node.func, ast.Attribute) and not dotted:
            owner, method = self._value(node.func.value), node.func.attr
            if isinstance(owner, str) and method == "format":
                return _format(owner, *values, **named)
            if any(isinstance(owner, kind) and method in methods for kind, methods in _METHODS):
                return getattr(owner, method)(*values, **named)
        raise _NotUnderstood(node, "a call")


def _scalars(*values: Any) -> tuple[Any, ...]:
    """Values whose text is of bounded length."""
    if not all(isinstance(value, (str, int, float, pathlib.PurePath)) for value in values):
        raise TypeError
    return values


def _format(text: str, /, *values: Any, **named: Any) -> str:
    """str.format without attributes and items of the values, and with widths of at most three digits."""
    for _, name, spec, _ in string.Formatter().parse(text):
        if not re.fullmatch(r"\w*", name or "") or not _SPEC.fullmatch(spec or ""):
            raise ValueError
    return text.format(*_scalars(*values), **dict(zip(named, _scalars(*named.values()))))
