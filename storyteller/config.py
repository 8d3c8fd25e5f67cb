"""Finds and checks the user's settings.

Settings are a small Python file of assignments, as in the original: ``FLAG_CPU_MODE`` and a
dict ``paths``.  The file is interpreted, not run: assignments of plain values and joined
paths are understood, anything else is refused, so that a ``config.py`` which happens to lie
in the current folder for another reason does no harm.

As with the original's module of this name, a program may read ``config.paths`` and
``config.FLAG_CPU_MODE`` and change them before it calls ``load_all()``.
"""
from __future__ import annotations

import ast
import logging
import os
import pathlib
import re
import string
import threading
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Union

from . import compact
from .errors import StorytellerError, check_count, check_flag, shown

_log = logging.getLogger(__name__)

VARIABLE = "STORYTELLER_CONFIG"
DEFAULT_FILE = "config.py"

_ZIP = "neural_storyteller.zip of the original project"
_SKIP = "the skip-thoughts project's download"

# Settings whose files are needed: key -> (appended to the path, what it is, where it comes from).
FILES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "skmodels": (("/uni_skip.npz", "uni_skip.npz, the uni-skip encoder", _SKIP),
                 ("/uni_skip.npz.pkl", "uni_skip.npz.pkl, its options", _SKIP),
                 ("/bi_skip.npz", "bi_skip.npz, the bi-skip encoder", _SKIP),
                 ("/bi_skip.npz.pkl", "bi_skip.npz.pkl, its options", _SKIP)),
    "sktables": (("/dictionary.txt", "dictionary.txt, the skip-thoughts dictionary", _SKIP),
                 ("/utable.npy", "utable.npy, the uni-skip word vectors", _SKIP),
                 ("/btable.npy", "btable.npy, the bi-skip word vectors", _SKIP)),
    "decmodel": (("", "decoder, e.g. romance.npz", _ZIP), (".pkl", "decoder options", _ZIP)),
    "dictionary": (("", "decoder dictionary, e.g. romance_dictionary.pkl", _ZIP),),
    "vsemodel": (("", "joint embedding, e.g. coco_embedding.npz", _ZIP),
                 (".pkl", "joint embedding options", _ZIP),
                 (".dictionary.pkl", "joint embedding dictionary", _ZIP)),
    "vgg": (("", "VGG-19 weights: vgg19.pkl, .caffemodel, .pth or .h5",
             "Lasagne's recipes, the VGG authors, torchvision or Keras"),),
    "captions": (("", "captions to retrieve from, e.g. coco_train_caps.txt", _ZIP),),
    "negbias": (("", "caption style vector, e.g. caption_style.npy",
                 f"{_ZIP}, or `storyteller style make`"),),
    "posbias": (("", "book style vector, e.g. romance_style.npy",
                 f"{_ZIP}, or `storyteller style make`"),),
}
# The original's settings for a CPU needed Caffe; its weights alone will do here.
_CAFFE_WEIGHTS = "vgg_model_caffe"
_FOLDERS = ("skmodels", "sktables")
_OTHER_KEYS = ("pycaffe", "vgg_proto_caffe", _CAFFE_WEIGHTS)

ConfigLike = Union[None, str, "os.PathLike[str]", Mapping[str, Any], types.ModuleType, "Config"]

_NAMES = ("FLAG_CPU_MODE", "paths", "styles", "telling")     # that mean something in settings
_PACKAGE = "storyteller itself, which is not wholly installed"
_INSTALL = "install storyteller again (pip install . in its checkout)"


@dataclass(frozen=True)
class NeededFile:
    """A file that the settings call for: its key, path (None: not set), meaning and source."""

    key: str
    path: str | None
    what: str
    source: str

    @property
    def advice(self) -> str:
        """What to do where it is missing."""
        if not self.path:
            return f"set paths[{self.key!r}] in config.py"
        return _INSTALL if self.source == _PACKAGE else f"get it from {self.source}"

    @property
    def found(self) -> bool:
        return self.path is not None and os.path.isfile(self.path)

    @property
    def shown(self) -> str:
        """Its path, or what is there in place of one or of a file."""
        if not self.path:
            return "(not set)" if self.path is None else "(an empty path)"
        there = "" if self.found or not os.path.lexists(self.path) else " (a folder)" if os.path.isdir(
            self.path) else " (no regular file)"
        return self.path + there


@dataclass(frozen=True)
class Config:
    """Settings.

    Attributes
    ----------
    cpu_mode : bool
        ``FLAG_CPU_MODE``: True computes on the CPU.
    paths : dict
        Key -> path, see :data:`FILES`.
    styles : dict
        Name -> path of further style vectors.
    telling : dict
        Defaults of the options of :func:`storyteller.generate.story` (``prose``, ``candidates`` ...).
    source : str
        Where the settings come from, for messages.
    """

    cpu_mode: bool = True
    paths: dict[str, str] = field(default_factory=dict)
    styles: dict[str, str] = field(default_factory=dict)
    telling: dict[str, Any] = field(default_factory=dict)
    source: str = "defaults"

    def path(self, key: str) -> str:
        """The path set for a key, with its files checked to exist.

        Raises
        ------
        StorytellerError
            If it is not set or one of its files is missing; all that are missing are listed.
        """
        self.require([key])
        return self.paths[key]

    def needed(self, keys=FILES) -> list[NeededFile]:
        """Every file that the named settings call for."""
        files = []
        for key in keys:
            base = self.paths.get(key)
            for suffix, what, source in FILES[key]:
                path = base if not base else (os.path.join(base, suffix[1:]) if suffix.startswith("/")
                                              else base + suffix)
                ours = base is not None and compact.FOLDER in (base, os.path.dirname(base))
                files.append(NeededFile(key, path, what, _PACKAGE if ours else source))
        return files

    def require(self, keys=FILES) -> None:
        """Raise one error that lists every missing file, what it is and where it comes from."""
        missing = [file for file in self.needed(keys) if not file.found]
        if not missing:
            return
        lines = [f"  {file.shown}  [paths[{file.key!r}]]: {file.what}; from {file.source}"
                 for file in missing]
        todo = []
        if any(file.source == _PACKAGE for file in missing):
            todo.append(f"{_INSTALL.capitalize()}.")
        if any(file.source != _PACKAGE for file in missing):
            todo.append(f"Set paths in config.py, in the file named by {VARIABLE}, or in load_all(config=...).")
        raise StorytellerError(f"{len(missing)} file{'s are' if len(missing) > 1 else ' is'} missing (settings: "
                               f"{self.source}). {' '.join(todo)}\n" + "\n".join(lines))

    def style_path(self, name: str) -> str:
        """The file of a named style: in ``styles``, or NAME_style.npy or NAME.npy beside posbias."""
        if name in self.styles:
            return self.styles[name]
        folders = [os.path.dirname(self.paths["posbias"])] if "posbias" in self.paths else []
        if self.paths.get("skmodels") == compact.FOLDER:  # the compact styles fit no other skip-thoughts
            folders.append(compact.FOLDER)
        for folder in folders:
            for candidate in (f"{name}_style.npy", f"{name}.npy"):
                path = os.path.join(folder, candidate)
                if os.path.isfile(path):
                    return path
        known = sorted(set(self.styles).union(*map(_styles_in, folders)))
        raise StorytellerError(f"style {name!r} is neither a file nor a known style: expected "
                               f"{', '.join(known) or 'the path of an .npy file'}; make one with "
                               "`storyteller style make TEXTS -o NAME_style.npy`")


def _styles_in(folder: str) -> list[str]:
    ending = "_style.npy"
    try:
        return [name[:-len(ending)] for name in os.listdir(folder or ".") if name.endswith(ending)]
    except OSError:
        return []


def load(config: ConfigLike = None) -> Config:
    """Find the settings.

    Parameters
    ----------
    config : path, mapping, module, Config or None
        A settings file; a mapping of its names (``FLAG_CPU_MODE``, ``paths``, ``styles``, ``telling``) or of
        path keys alone; an imported module of these names.  None: the file named by STORYTELLER_CONFIG, else
        ./config.py, else the defaults, with what the program has changed in ``storyteller.config.paths``.

    Returns
    -------
    Config

    Raises
    ------
    StorytellerError
        If the file is missing or holds something other than settings.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, types.ModuleType):
        if vars(config) is globals():   # from storyteller import config; load_all(config)
            return load(None)
        file = getattr(config, "__file__", None)
        names = {name: vars(config)[name] for name in _NAMES if name in vars(config)}
        if not names:
            raise StorytellerError(f"the module {config.__name__} has no settings: expected {', '.join(_NAMES)}")
        return _from_names(names, f"the module {config.__name__}",
                           os.path.dirname(os.path.abspath(file)) if file else _current_folder())
    if isinstance(config, Mapping):
        names = dict(config)
        if not names.keys() & set(_NAMES):
            names = {"paths": names}
        return _from_names(names, "the config argument", _current_folder())
    if config is not None:
        if not isinstance(config, (str, bytes, os.PathLike)):
            raise StorytellerError(f"config is {shown(config)}: expected the path of a settings file, a mapping or a "
                                   "module of settings")
        path = os.path.expanduser(os.fsdecode(config))
        return _from_names(_interpreted(path, "load_all's config argument"), path, _folder_of(path))
    names, source, folder = _found()
    changed = _program.changes()
    if changed:
        known = _paths(names.get("paths", {}), "paths", source, folder)
        names = {**names, "paths": {**known, **_paths(changed, "storyteller.config.paths", "the program",
                                                      _current_folder())}}
    flag = globals().get("FLAG_CPU_MODE")
    return _from_names(names if flag is None else {**names, "FLAG_CPU_MODE": flag}, source, folder)


def _found() -> tuple[dict[str, Any], str, str]:
    """The names of the settings that are there without a program's doing, their source and folder."""
    named = os.environ.get(VARIABLE)
    if named:
        path = os.path.expanduser(named)
        return _interpreted(path, f"the environment variable {VARIABLE}"), path, _folder_of(path)
    if os.path.isfile(DEFAULT_FILE) and _is_ours(DEFAULT_FILE):
        return _interpreted(DEFAULT_FILE, "the current folder"), DEFAULT_FILE, _current_folder()
    return {}, "none, the compact models that come with storyteller", _current_folder()


class _Program:
    """``storyteller.config.paths`` as a program sees and changes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: dict[str, str] = {}
        self._read: dict[str, str] = {}     # as they were before the program changed anything

    def paths(self) -> dict[str, str]:
        with self._lock:
            if self._paths == self._read:   # nothing is changed yet; settings may have
                self._read = dict(_from_names(*_found()).paths)
                self._paths.clear()
                self._paths.update(self._read)
            return self._paths

    def changes(self) -> dict[str, Any]:
        given = globals().get("paths")      # config.paths = {...}
        if given is not None:
            return dict(given)
        with self._lock:
            return {key: path for key, path in self._paths.items() if self._read.get(key) != path}


_program = _Program()


def __getattr__(name: str) -> Any:
    if name == "paths":
        return _program.paths()
    if name == "FLAG_CPU_MODE":
        return _from_names(*_found()).cpu_mode
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:     # it was deleted; only whole paths are of use then
        return ""


def _folder_of(path: str) -> str:
    return os.path.join(_current_folder(), os.path.dirname(path))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST + 1)
    except OSError as error:
        raise StorytellerError(f"{path}: the settings file cannot be read ({error.strerror}); check its "
                               "permissions") from error


def _is_ours(path: str) -> bool:
    """Many a project has a config.py; ours sets the flag or names a path that we know."""
    source = _read(path).decode("utf-8", "replace")
    keys = "|".join((*FILES, *_OTHER_KEYS))
    return bool(re.search(r"^(FLAG_CPU_MODE|styles|telling)\s*[:=]", source, re.MULTILINE)
                or re.search(r"^paths\s*[:=]", source, re.MULTILINE)
                and re.search(rf"['\"]?\b({keys})\b['\"]?\s*[]=:]", source))


def _interpreted(path: str, named_by: str) -> dict[str, Any]:
    """The names that a settings file assigns."""
    if not os.path.isfile(path):
        what = "a folder, no settings file" if os.path.isdir(path) else "no such settings file"
        raise StorytellerError(f"{path}: {what} (named by {named_by}); correct the name or leave it out")
    return _Interpreter(path).run(_read(path))


def _from_names(names: Mapping[str, Any], source: str, folder: str) -> Config:
    cpu_mode = names.get("FLAG_CPU_MODE", True)
    if not isinstance(cpu_mode, (bool, int)):
        raise StorytellerError(f"{source}: FLAG_CPU_MODE is {shown(cpu_mode)}: expected True or False")
    given = names.get("paths", {})
    paths = _paths(given, "paths", source, folder, {*FILES, *_OTHER_KEYS})
    others = [shown(key) for key in given if key not in paths]
    if others:
        _log.warning("%s: paths has %d key%s that storyteller does not use (%s); its own are %s", source, len(others),
                     "s" if len(others) > 1 else "", ", ".join(others[:5]) + ", ..." * (len(others) > 5),
                     ", ".join(FILES))
    caffe = paths.get(_CAFFE_WEIGHTS)
    if caffe and os.path.isfile(caffe) and not os.path.isfile(paths.get("vgg", "")):
        paths["vgg"] = caffe
    styles = _paths(names.get("styles", {}), "styles", source, folder)
    left = compact.paths(paths)
    telling = {**(compact.TELLING if "decmodel" in left else {}), **_telling(names.get("telling", {}), source)}
    return Config(bool(cpu_mode), {**left, **paths}, styles, telling, source)


def _telling(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise StorytellerError(f"{source}: telling is {shown(value)}: expected a dict of options of "
                               f"story() ({', '.join(compact.TELLING)})")
    for name, option in value.items():
        if name not in compact.TELLING:
            raise StorytellerError(f"{source}: telling has the unknown option {shown(name)}: expected "
                                   f"{', '.join(compact.TELLING)}")
        named, usual = f"{source}: telling[{name!r}]", compact.TELLING[name]
        if isinstance(usual, bool):
            check_flag(named, option)
        else:
            check_count(named, option, 0)
    return dict(value)


def _paths(value: Any, name: str, source: str, folder: str, keys: Iterable[str] | None = None) -> dict[str, str]:
    """A dict of paths; of those in `keys` alone."""
    if not isinstance(value, Mapping):
        raise StorytellerError(f"{source}: {name} is {shown(value)}: expected a dict of paths")
    found = {}
    for key, path in value.items():
        if keys is not None and key not in keys:
            continue
        if not isinstance(path, (str, bytes, os.PathLike)):
            raise StorytellerError(f"{source}: {name}[{shown(key)}] is {shown(path)}: expected a path")
        path = os.fsdecode(path)
        if _ESCAPED.search(path):
            raise StorytellerError(f"{source}: {name}[{shown(key)}] is {shown(path)}, with a control character: write "
                                   "backslashes as r'C:\\models' or use / instead")
        try:
            path = os.path.expanduser(path)
        except ValueError:      # a user of an impossible name
            pass
        # An empty path is this folder where one is asked for, and of no use where a file is.
        found[str(key)] = os.path.join(folder, path) if path or key in _FOLDERS else ""
    return found


# The interpreter of settings files.  All of it is bounded: length of the file, of strings, depth and work.
_LARGEST = 1 << 16      # bytes of a file
_LONGEST = 1 << 13      # characters of a string
_DEEPEST = 100          # expressions within each other
_MOST_WORK = 1 << 20    # characters and items handled in all
_ESCAPED = re.compile("[\0\a\b\t\n\v\f\r]")  # what 'C:\\new' and the like become
_SPEC = re.compile(r"(.?[<>=^])?[-+ ]?#?0?\d{0,3},?(\.\d{1,3})?[a-zA-Z%]?", re.DOTALL)
_PERCENT = re.compile(r"%(?:%|[-+ 0#]*\d{0,3}(?:\.\d{0,3})?[sdifrx])")


class _NotUnderstood(Exception):
    """Of a node of the file."""

    def __init__(self, node: ast.AST, why: str = ""):
        self.line, self.why = getattr(node, "lineno", "?"), why


class _Interpreter:
    """Understands the assignments of a settings file."""

    _FUNCTIONS: dict[str, Callable[..., Any]] = {
        **{f"os.path.{name}": getattr(os.path, name)
           for name in ("join", "expanduser", "expandvars", "dirname", "basename", "abspath", "realpath", "normpath",
                        "exists", "isdir", "isfile")},
        "os.getcwd": os.getcwd, "os.environ.get": os.environ.get, "os.getenv": os.getenv, "dict": dict,
        "pathlib.Path": pathlib.Path}
    _CONSTANTS = {"os.sep": os.sep, "os.path.sep": os.sep, "os.curdir": os.curdir, "os.pardir": os.pardir}
    _OF_PATHS = ("joinpath", "resolve", "absolute", "expanduser", "as_posix")
    _OF_STRINGS = ("strip", "rstrip", "lstrip", "lower", "upper")

    def __init__(self, path: str):
        self._path = path
        self.names: dict[str, Any] = {"__file__": os.path.join(_current_folder(), path), "__name__": "config"}
        self._imported = {"os": "os", "dict": "dict"}     # name -> what it stands for
        self._skipped: list[str] = []
        self._depth = self._work = 0

    def run(self, source: bytes) -> dict[str, Any]:
        """The names that the file assigns."""
        if len(source) > _LARGEST:
            raise StorytellerError(f"{self._path}: is larger than {_LARGEST} bytes: expected settings, such as "
                                   "paths['vgg'] = 'vgg19.pkl'")
        try:
            tree = ast.parse(source, self._path)
        except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError) as error:
            raise StorytellerError(f"{self._path}: not a settings file: {str(error)[:200] or 'too complex'}") from error
        try:
            self._block(tree.body)
        except _NotUnderstood as error:
            raise StorytellerError(
                f"{self._path}, line {error.line}: {error.why or 'this'} cannot be understood in settings, which are "
                "read and not run: give plain values, such as paths['vgg'] = 'vgg19.pkl'") from error
        if self._skipped:
            _log.warning("%s: is read and not run; what it defines is left out (%s)", self._path,
                         ", ".join(self._skipped[:5]))
        return self.names

    def _block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            try:
                self._statement(statement)
            except (TypeError, ValueError, OverflowError, OSError, RuntimeError, LookupError) as error:
                raise _NotUnderstood(statement) from error  # such as a list for a key

    def _charge(self, node: ast.AST, amount: int) -> None:
        self._work += amount + 1
        if self._work > _MOST_WORK:
            raise _NotUnderstood(node, "so much")

    def _short(self, node: ast.AST, *texts: str) -> None:
        """Check the length of what texts are joined to, before it is made."""
        length = sum(map(len, texts))
        self._charge(node, length)
        if length > _LONGEST:
            raise _NotUnderstood(node, f"a text of {length} characters")

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self._skipped.append(node.name)
            self._forget(node, node.name)
        elif isinstance(node, ast.If):
            self._block(node.body if self._value(node.test) else node.orelse)
        elif isinstance(node, ast.Assign):
            value = self._value(node.value)
            for target in node.targets:
                self._assign(target, value)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._assign(node.target, self._value(node.value))
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            before = self._value(ast.copy_location(ast.Name(node.target.id), node) if isinstance(node.target, ast.Name)
                                 else node.target)
            self._assign(node.target, self._sum(node, before, self._value(node.value)))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self._call_alone(node.value)
        elif not (isinstance(node, ast.Pass) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            raise _NotUnderstood(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or (alias.name if isinstance(node, ast.ImportFrom) else alias.name.partition(".")[0])
            if name == "*" or name in _NAMES:
                raise _NotUnderstood(node, "settings of another file")
            if isinstance(node, ast.ImportFrom):
                stands_for = f"{node.module}.{alias.name}"
            else:
                stands_for = alias.name if alias.asname else name
            self._forget(node, name)
            self._imported[name] = stands_for

    def _forget(self, node: ast.AST, name: str) -> None:
        if name in _NAMES:
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

    def _call_alone(self, node: ast.Call) -> None:
        """A call whose value is not used."""
        function = node.func
        if isinstance(function, ast.Name) and function.id == "print" and "print" not in self._skipped:
            return
        container = self._value(function.value) if isinstance(function, ast.Attribute) and function.attr == "update" \
            else None
        if not isinstance(container, dict):
            raise _NotUnderstood(node, "a call")
        container.update(self._function(node, dict, *self._arguments(node)))

    def _value(self, node: ast.AST | None) -> Any:
        self._depth += 1
        try:
            if self._depth > _DEEPEST or node is None:
                raise _NotUnderstood(node or ast.Pass(), "an expression so deep")
            value = self._understood(node)
        finally:
            self._depth -= 1
        if isinstance(value, str):
            self._short(node, value)
        elif isinstance(value, int) and value.bit_length() > 64:
            raise _NotUnderstood(node, "so large a number")
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
                made.update(dict(value) if key is None else {self._value(key): value})
                self._charge(node, len(value) if key is None else 1)
            return made
        if isinstance(node, (ast.List, ast.Tuple)):
            items = [*map(self._value, node.elts)]
            return items if isinstance(node, ast.List) else tuple(items)
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left), self._value(node.right)
            if isinstance(node.op, ast.Add):
                return self._sum(node, left, right)
            if isinstance(node.op, ast.Div) and isinstance(left, pathlib.PurePath):
                return left / right
            if isinstance(node.op, ast.Mod) and isinstance(left, str):
                return self._percent(node, left, right if isinstance(right, tuple) else (right,))
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
            text = ""
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    spec = self._value(part.format_spec) if part.format_spec else ""
                    text += self._formatted(part, self._value(part.value), chr(max(0, part.conversion)), spec)
                else:
                    text += self._value(part)
                self._short(node, text)
            return text
        if isinstance(node, ast.Call):
            return self._call(node)
        raise _NotUnderstood(node)

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
        if dotted in self._CONSTANTS:
            return self._CONSTANTS[dotted]
        if isinstance(node, ast.Attribute) and node.attr == "parent" and not dotted:
            value = self._value(node.value)
            if isinstance(value, pathlib.PurePath):
                return value.parent
        raise _NotUnderstood(node, "a name that the file does not assign" if isinstance(node, ast.Name) else "")

    def _sum(self, node: ast.AST, left: Any, right: Any) -> Any:
        if isinstance(left, str) and isinstance(right, str):
            self._short(node, left, right)
            return left + right
        raise _NotUnderstood(node, "a sum of other things than texts")

    def _percent(self, node: ast.AST, text: str, values: tuple[Any, ...]) -> str:
        if "%" in _PERCENT.sub("", text):
            raise _NotUnderstood(node, "this format")
        self._short(node, text, *map(self._scalar_text, values))
        return text % values

    @staticmethod
    def _scalar_text(value: Any) -> str:
        if not isinstance(value, (str, int, float, pathlib.PurePath)):
            raise TypeError
        return str(value)

    def _formatted(self, node: ast.AST, value: Any, conversion: str | None, spec: str | None) -> str:
        """A value as str.format and f-strings show it."""
        text = self._scalar_text(value)
        spec = spec or ""
        if not _SPEC.fullmatch(spec):
            raise _NotUnderstood(node, "this format")
        if conversion in ("r", "a"):
            value = (repr if conversion == "r" else ascii)(value)
        elif conversion == "s":
            value = text
        return format(value, spec)

    def _format(self, node: ast.Call, text: str, values: list[Any], named: dict[str, Any]) -> str:
        """str.format, without attributes and items of the values."""
        made, count = "", 0
        for literal, name, spec, conversion in string.Formatter().parse(text):
            made += literal
            if name is not None:
                if name == "":
                    name, count = str(count), count + 1
                value = values[int(name)] if name.isdigit() else named[name]
                made += self._formatted(node, value, conversion, spec)
            self._short(node, made)
        return made

    def _arguments(self, node: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        values = [self._value(value) for value in node.args]
        named: dict[str, Any] = {}
        for word in node.keywords:
            value = self._value(word.value)
            named.update(value if word.arg is None else {word.arg: value})
        return values, named

    def _function(self, node: ast.Call, function: Callable[..., Any], values: list[Any], named: dict[str, Any]) -> Any:
        everything = [*values, *named.values()]
        self._short(node, *(value for value in everything if isinstance(value, str)))
        self._charge(node, sum(len(value) for value in everything if isinstance(value, (dict, list, tuple))))
        return function(*values, **named)

    def _call(self, node: ast.Call) -> Any:
        values, named = self._arguments(node)
        function = self._FUNCTIONS.get(self._dotted(node.func))
        if function is not None:
            return self._function(node, function, values, named)
        if isinstance(node.func, ast.Attribute) and not self._dotted(node.func):
            owner, method = self._value(node.func.value), node.func.attr
            if isinstance(owner, str) and method == "format":
                return self._format(node, owner, values, named)
            if isinstance(owner, str) and method == "join" and len(values) == 1 and not named:
                self._short(node, *(text for part in values[0] for text in (part, owner)))
                return owner.join(values[0])
            if isinstance(owner, str) and method in self._OF_STRINGS or \
                    isinstance(owner, pathlib.PurePath) and method in self._OF_PATHS:
                return self._function(node, getattr(owner, method), values, named)
        raise _NotUnderstood(node, "a call")
