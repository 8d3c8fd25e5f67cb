"""Finds and checks the user's settings.

Settings are a small Python file of assignments, as in the original: ``FLAG_CPU_MODE`` and a
dict ``paths``.  The file is interpreted, not run: assignments of plain values and joined
paths are understood, anything else is refused, so that a ``config.py`` which happens to lie
in the current folder for another reason does no harm.
"""
from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from . import compact
from .errors import StorytellerError

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
_OTHER_KEYS = ("pycaffe", "vgg_proto_caffe", _CAFFE_WEIGHTS)

ConfigLike = Union[None, str, "os.PathLike[str]", Mapping[str, Any], "Config"]


@dataclass(frozen=True)
class NeededFile:
    """A file that the settings call for: its key, path (None: not set), meaning and source."""

    key: str
    path: str | None
    what: str
    source: str

    @property
    def found(self) -> bool:
        return self.path is not None and os.path.isfile(self.path)


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
                path = None if base is None else (os.path.join(base, suffix[1:])
                                                  if suffix.startswith("/") else base + suffix)
                files.append(NeededFile(key, path, what, source))
        return files

    def require(self, keys=FILES) -> None:
        """Raise one error that lists every missing file, what it is and where it comes from."""
        missing = [file for file in self.needed(keys) if not file.found]
        if not missing:
            return
        lines = [f"  {file.path or '(not set)'}  [paths[{file.key!r}]]: {file.what}; from {file.source}"
                 for file in missing]
        raise StorytellerError(
            f"{len(missing)} file{'s are' if len(missing) > 1 else ' is'} missing (settings: "
            f"{self.source}). Set paths in config.py, in the file named by {VARIABLE}, or in "
            "load_all(config=...):\n" + "\n".join(lines))

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
    config : path, mapping, Config or None
        A settings file; a mapping of its names (``FLAG_CPU_MODE``, ``paths``, ``styles``) or of path
        keys alone.  None: the file named by STORYTELLER_CONFIG, else ./config.py, else the
        defaults.

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
    if isinstance(config, Mapping):
        names = dict(config)
        if not {"paths", "FLAG_CPU_MODE", "styles"} & names.keys():
            names = {"paths": names}
        return _from_names(names, "the config argument", _current_folder())
    if config is not None:
        return _from_file(os.fspath(config), "load_all's config argument")
    named = os.environ.get(VARIABLE)
    if named:
        return _from_file(named, f"the environment variable {VARIABLE}")
    if os.path.isfile(DEFAULT_FILE):
        source = _read(DEFAULT_FILE)
        # Many a project has a config.py; ours names one of these.
        if re.search(r"^(FLAG_CPU_MODE|paths)\s*=", source, re.MULTILINE):
            return _from_file(DEFAULT_FILE, "the current folder")
    return _from_names({}, "none, the compact models that come with storyteller", _current_folder())


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:     # it was deleted; only whole paths are of use then
        return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise StorytellerError(f"{path}: the settings file cannot be read ({error})") from error


def _from_file(path: str, named_by: str) -> Config:
    if not os.path.isfile(path):
        raise StorytellerError(f"{path}: no such settings file (named by {named_by}); correct the name or "
                               "leave it out")
    names = _Interpreter(path).run(_read(path))
    return _from_names(names, path, os.path.dirname(os.path.abspath(path)))


def _from_names(names: Mapping[str, Any], source: str, folder: str) -> Config:
    cpu_mode = names.get("FLAG_CPU_MODE", True)
    if not isinstance(cpu_mode, (bool, int)):
        raise StorytellerError(f"{source}: FLAG_CPU_MODE is {cpu_mode!r}: expected True or False")
    paths = _paths(names.get("paths", {}), "paths", source, folder)
    unknown = sorted(set(paths) - set(FILES) - set(_OTHER_KEYS))
    if unknown:
        raise StorytellerError(f"{source}: paths has unknown keys {', '.join(map(repr, unknown))}: expected "
                               f"{', '.join(FILES)}")
    caffe = paths.get(_CAFFE_WEIGHTS)
    if caffe and os.path.isfile(caffe) and not os.path.isfile(paths.get("vgg", "")):
        paths["vgg"] = caffe
    styles = _paths(names.get("styles", {}), "styles", source, folder)
    left = compact.paths(paths)
    telling = {**(compact.TELLING if "decmodel" in left else {}), **_telling(names.get("telling", {}), source)}
    return Config(bool(cpu_mode), {**left, **paths}, styles, telling, source)


def _telling(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise StorytellerError(f"{source}: telling is a {type(value).__name__}: expected a dict of options of "
                               f"story() ({', '.join(compact.TELLING)})")
    for name, option in value.items():
        if name not in compact.TELLING:
            raise StorytellerError(f"{source}: telling has the unknown option {name!r}: expected "
                                   f"{', '.join(compact.TELLING)}")
        kind = type(compact.TELLING[name])
        if type(option) is not kind and not (kind is float and type(option) is int):
            raise StorytellerError(f"{source}: telling[{name!r}] is {option!r}: expected {kind.__name__}, such as "
                                   f"{compact.TELLING[name]!r}")
    return dict(value)


def _paths(value: Any, name: str, source: str, folder: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise StorytellerError(f"{source}: {name} is a {type(value).__name__}: expected a dict of paths")
    found = {}
    for key, path in value.items():
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise StorytellerError(f"{source}: {name}[{key!r}] is {path!r}: expected a path")
        found[str(key)] = os.path.join(folder, os.path.expanduser(os.fspath(path)))
    return found


class _Interpreter:
    """Understands the assignments of a settings file."""

    _CALLS = {"os.path.join": os.path.join, "os.path.expanduser": os.path.expanduser,
              "os.path.dirname": os.path.dirname, "os.path.abspath": os.path.abspath,
              "os.path.expandvars": os.path.expandvars, "os.getcwd": os.getcwd,
              "os.environ.get": os.environ.get, "os.getenv": os.getenv, "dict": dict}

    def __init__(self, path: str):
        self._path = path
        self.names: dict[str, Any] = {"__file__": os.path.abspath(path)}

    def run(self, source: str) -> dict[str, Any]:
        try:
            tree = ast.parse(source, self._path)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise StorytellerError(f"{self._path}: not a settings file: {error}") from error
        for statement in tree.body:
            try:
                self._statement(statement)
            except TypeError as error:  # such as a list for a key
                raise self._refuse(statement) from error
        return self.names

    def _refuse(self, node: ast.AST) -> StorytellerError:
        return StorytellerError(
            f"{self._path}, line {getattr(node, 'lineno', '?')}: only assignments such as "
            "paths['vgg'] = 'vgg19.pkl' are understood in settings; give plain values there")

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            return  # os and the like are known already
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            raise self._refuse(node)
        target, value = node.targets[0], self._value(node.value)
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Subscript) and isinstance(self._value(target.value), dict):
            index = target.slice
            self._value(target.value)[self._value(index)] = value
        else:
            raise self._refuse(node)

    def _value(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in self.names:
            return self.names[node.id]
        if isinstance(node, ast.Dict) and None not in node.keys:
            return {self._value(k): self._value(v) for k, v in zip(node.keys, node.values)}
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._value(node.left), self._value(node.right)
            if isinstance(left, str) and isinstance(right, str):
                return left + right
        if isinstance(node, ast.Subscript):
            container = self._value(node.value)
            key = self._value(node.slice)
            if isinstance(container, dict) and key in container:
                return container[key]
        if isinstance(node, ast.JoinedStr):
            return "".join(str(self._value(part.value if isinstance(part, ast.FormattedValue) else part))
                           for part in node.values)
        if isinstance(node, ast.Call):
            call = self._CALLS.get(ast.unparse(node.func))
            if call is not None:
                try:
                    return call(*map(self._value, node.args),
                                **{word.arg: self._value(word.value) for word in node.keywords if word.arg})
                except (TypeError, ValueError):
                    pass
        raise self._refuse(node)
