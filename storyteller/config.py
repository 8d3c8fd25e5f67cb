"""Finds and checks the user's settings.

Settings are a small Python file of assignments, as in the original: ``FLAG_CPU_MODE`` and a
dict ``paths``.  The file is read, not run (:mod:`storyteller.settings`), so that a ``config.py`` which
happens to lie in the current folder for another reason does no harm.

As with the original's module of this name, a program may read ``config.paths`` and
``config.FLAG_CPU_MODE`` and change them before it calls ``load_all()``.
"""
from __future__ import annotations

import logging
import os
import re
import threading
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from . import compact
from .errors import MOST_CANDIDATES, StorytellerError, check_count, check_flag, check_number, shown
from .settings import NAMES, current_folder, read_settings, read_source

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

_ESCAPED = re.compile("[\0\a\b\t\n\v\f\r]")  # what 'C:\\new' and the like become
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
        """Whether it is there."""
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
        for folder in self._style_folders():
            for candidate in (f"{name}_style.npy", f"{name}.npy"):
                path = os.path.join(folder, candidate)
                if os.path.isfile(path):
                    return path
        raise StorytellerError(f"style {name!r} is neither a file nor a known style: expected "
                               f"{', '.join(self.style_names()) or 'the path of an .npy file'}; make one with "
                               "`storyteller style make TEXTS -o NAME_style.npy`")

    def style_names(self) -> list[str]:
        """The named styles, in order; the caption style, which is no book's, is none."""
        names = sorted(set(self.styles).union(*map(_styles_in, self._style_folders())))
        return [name for name in names if self.style_path(name) != self.paths.get("negbias")]

    def _style_folders(self) -> list[str]:
        folders = [os.path.dirname(self.paths["posbias"])] if "posbias" in self.paths else []
        if self.paths.get("skmodels") == compact.FOLDER:  # the compact styles fit no other skip-thoughts
            folders.append(compact.FOLDER)
        return folders


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
        names = {name: vars(config)[name] for name in NAMES if name in vars(config)}
        if not names:
            raise StorytellerError(f"the module {config.__name__} has no settings: expected {', '.join(NAMES)}")
        return _from_names(names, f"the module {config.__name__}",
                           os.path.dirname(os.path.abspath(file)) if file else current_folder())
    if isinstance(config, Mapping):
        names = dict(config)
        if not names.keys() & set(NAMES):
            names = {"paths": names}
        return _from_names(names, "the config argument", current_folder())
    if config is not None:
        if not isinstance(config, (str, bytes, os.PathLike)):
            raise StorytellerError(f"config is {shown(config)}: expected the path of a settings file, a mapping or a "
                                   "module of settings")
        path = os.path.expanduser(os.fsdecode(config))
        return _from_names(_interpreted(path, "the config argument, or --config"), path, _folder_of(path))
    names, source, folder = _found()
    changed = _program.changes()
    if changed:
        known = _paths(names.get("paths", {}), "paths", source, folder)
        names = {**names, "paths": {**known, **_paths(changed, "storyteller.config.paths", "the program",
                                                      current_folder())}}
    flag = globals().get("FLAG_CPU_MODE")
    return _from_names(names if flag is None else {**names, "FLAG_CPU_MODE": flag}, source, folder)


def _found() -> tuple[dict[str, Any], str, str]:
    """The names of the settings that are there without a program's doing, their source and folder."""
    named = os.environ.get(VARIABLE)
    if named:
        path = os.path.expanduser(named)
        return _interpreted(path, f"the environment variable {VARIABLE}"), path, _folder_of(path)
    if os.path.isfile(DEFAULT_FILE) and _is_ours(DEFAULT_FILE):
        return _interpreted(DEFAULT_FILE, "the current folder"), DEFAULT_FILE, current_folder()
    return {}, "none, the compact models that come with storyteller", current_folder()


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


def _folder_of(path: str) -> str:
    return os.path.join(current_folder(), os.path.dirname(path))


def _is_ours(path: str) -> bool:
    """Many a project has a config.py; ours sets the flag or names a path that we know."""
    source = read_source(path).decode("utf-8", "replace")
    keys = "|".join((*FILES, *_OTHER_KEYS))
    return bool(re.search(r"^(FLAG_CPU_MODE|styles|telling)\s*[:=]", source, re.MULTILINE)
                or re.search(r"^paths\s*[:=]", source, re.MULTILINE)
                and re.search(rf"['\"]?\b({keys})\b['\"]?\s*[]=:]", source))


def _interpreted(path: str, named_by: str) -> dict[str, Any]:
    """The names that a settings file assigns."""
    if not os.path.isfile(path):
        what = "a folder, no settings file" if os.path.isdir(path) else "no such settings file"
        raise StorytellerError(f"{path}: {what} (named by {named_by}); correct the name or leave it out")
    return read_settings(path)


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
        elif isinstance(usual, float):
            check_number(named, option)
        else:
            check_count(named, option, 0, MOST_CANDIDATES)
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
