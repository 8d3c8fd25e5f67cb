"""A reader of pickles that cannot be made to do anything but read.

Model files come from strangers, and Python's own ``pickle`` runs whatever a file asks for.  The
reader here is the standard library's, in its form in Python, with everything replaced that calls,
imports, allocates or hashes what the file says: it makes numbers, text, lists, tuples, dicts, sets
and NumPy arrays, and refuses by name whatever else a file asks for.  (The form in C cannot be held
back so: a few bytes make it allocate a memo of many gigabytes.)  What a file may cost in memory is
bounded by its size.

Opcodes and the encoding of their arguments: documentation of the standard library's `pickletools`.
"""
from __future__ import annotations

import itertools
import math
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from typing import Any, BinaryIO, Callable, NoReturn, cast

import numpy as np

from ..errors import StorytellerError
from .io import AGAIN

MAX_DEPTH = 100             # deeper nesting than any model file has
MAX_ITEMS = 50_000_000      # items after unfolding shared parts ("billion laughs")
MAX_DIGITS = 1024           # characters or bytes of one number: longer ones take quadratic time
MAX_KEY = (1 << 61) - 1     # larger integers can be chosen to collide in a dict

# Memory, in bytes: a constant and a multiple of the file's size, never more than the last.  Data come on
# top, but they stand in the file as they do in memory.
_ALLOWED = (1 << 28, 16, 3 << 28)
_STEP, _CONTAINER, _MEMO, _KEY = 32, 220, 80, 100       # an opcode's, an empty set's, a memo entry's, a dict item's


class Refused(Exception):
    """Something in the pickle is not as it must be; becomes a StorytellerError with the file."""


class Name:
    """A global that a pickle may name, and what calling it does here."""

    __slots__ = ("name", "call")

    def __init__(self, name: str, call: Callable[..., Any]):
        self.name, self.call = name, call


# ------------------------------------------------------------------------------ what may be called

_SIZES = {"b": ("1",), "i": ("1", "2", "4", "8"), "u": ("1", "2", "4", "8"), "f": ("2", "4", "8"),
          "c": ("8", "16"), "O": ("", "8")}
_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric",
                  "numpy._core.numeric", "numpy")


def as_bytes(value: Any) -> Any:
    """The bytes of what the file holds as bytes: those that are UTF-8 have become str."""
    return value.encode("utf-8", "surrogatepass") if type(value) is str else value


def _key(value: Any) -> Any:
    """Dict keys and set members: only what hashes quickly, whoever chose it."""
    if type(value) in (str, bytes, bool, type(None)) or (type(value) is int and -MAX_KEY < value < MAX_KEY):
        return value
    raise Refused("uses an integer of more than 60 bits as a key" if type(value) is int else
                  f"has a key of type {type(value).__name__}")


def _make_dtype(code: Any, *_: Any) -> np.dtype:
    match = re.fullmatch(r"[<>|=]?([biufcSUO])(\d{0,6})", code) if type(code) is str else None
    if match is None or match[2] not in _SIZES.get(match[1], (match[2],)):
        # Printing what is not text could take forever, so its type has to do.
        raise Refused(f"holds an array of an unusual type ({code[:30]!r})" if type(code) is str else
                      f"holds an array of an unusual type ({type(code).__name__})")
    return np.dtype(code, False, True)      # a copy, as its byte order is set afterwards


def _build_dtype(dtype: np.dtype, state: Any) -> None:
    if not (type(state) is tuple and len(state) in (8, 9) and state[0] in (3, 4) and type(state[1]) is str
            and state[1] in ("<", ">", "|", "=") and state[2:5] == (None, None, None) and state[8:] in ((), (None,))):
        raise Refused("holds an array of a structured type")
    if dtype.kind == "O":
        return      # no byte order to set
    sizes = (dtype.itemsize, dtype.alignment) if dtype.kind in "SU" else (-1, -1)
    dtype.__setstate__((3, state[1], None, None, None, *sizes, 0))   # type: ignore[attr-defined]


def _size(shape: Any) -> int:
    if type(shape) is not tuple or len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise Refused("holds an array of an impossible shape")
    return math.prod(shape)


def _array(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """View `raw` as an array, once its length is found to be what shape and dtype say."""
    size, raw = _size(shape), as_bytes(raw)
    if not isinstance(dtype, np.dtype) or dtype.kind == "O" or not dtype.itemsize:
        raise Refused("holds an array without a usable type")
    if type(raw) is not bytes or len(raw) != size * dtype.itemsize:
        raise Refused(f"holds an array whose data do not fit its shape {shape}")
    return np.frombuffer(raw, dtype).reshape(shape, order=order)     # type: ignore[call-overload]


def _build_array(array: np.ndarray, state: Any) -> None:
    if type(state) is not tuple or len(state) != 5 or state[0] != 1 or array.shape != (0,):
        raise Refused("holds an array in an unknown form")
    _, shape, dtype, fortran, raw = state
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        if type(raw) is not list or len(raw) != _size(shape):
            raise Refused("holds an object array whose items do not fit its shape")
    else:
        raw = as_bytes(raw)
        _array(raw, dtype, shape, "C")
    cast(Any, array).__setstate__((1, shape, dtype, bool(fortran), raw))


def _make_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if type(kind) is not Name or not kind.name.endswith(".ndarray") or shape != (0,) or code != "b":
        raise Refused("makes an array in an unknown form")
    return np.empty(0, np.int8)


def _array_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    if order not in ("C", "F", "K", "A"):
        raise Refused("makes an array in an unknown form")
    array = _array(raw, dtype, shape, "F" if order == "F" else "C")
    if axes is None:
        return array
    _size(axes)
    return array.transpose(axes)


def _make_scalar(dtype: Any, raw: Any = "") -> Any:
    if isinstance(dtype, np.dtype) and dtype.kind in "SU" and not raw:
        return ""
    return _array(raw, dtype, (), "C").item()


def _encode(text: Any = "", encoding: Any = "latin1") -> Any:
    # This is how Python 3 writes bytes and bytearrays in protocols 0 to 2.
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused("encodes text in an unknown form")
    return decoded(text.encode("latin-1"))


def _make_ordered(pairs: Any = ()) -> OrderedDict:
    return OrderedDict((_key(key), value) for key, value in _plain_list(pairs))


def _make_set(kind: type) -> Callable[..., Any]:
    return lambda items=(): kind(map(_key, _plain_list(items)))


def _plain_list(items: Any) -> Iterable:
    if type(items) not in (list, tuple):
        raise Refused("makes a container in an unknown form")
    return items


def _make_bytes(raw: Any = "", *encoding: Any) -> Any:
    # An integer would ask for that many bytes.
    if encoding:
        return _encode(raw, *encoding)
    if type(raw) not in (str, bytes):
        raise Refused("makes bytes in an unknown form")
    return raw


def _make_complex(real: Any, imag: Any) -> complex:
    if type(real) is not float or type(imag) is not float:
        raise Refused("makes a complex number in an unknown form")
    return complex(real, imag)


def _not_called(*_: Any) -> NoReturn:
    raise Refused("makes an array in an unknown form")


def _admitted() -> dict[str, Callable[..., Any]]:
    names: dict[str, Callable[..., Any]] = {"collections.OrderedDict": _make_ordered, "_codecs.encode": _encode}
    for module in ("__builtin__", "builtins"):
        names.update({f"{module}.set": _make_set(set), f"{module}.frozenset": _make_set(frozenset),
                      f"{module}.bytes": _make_bytes, f"{module}.bytearray": _make_bytes,
                      f"{module}.complex": _make_complex})
    for module in _NUMPY_MODULES:
        names.update({f"{module}._reconstruct": _make_array, f"{module}._frombuffer": _array_from_buffer,
                      f"{module}.scalar": _make_scalar, f"{module}.dtype": _make_dtype,
                      f"{module}.ndarray": _not_called})
    return names


_ADMITTED = _admitted()


def decoded(value: bytes) -> str | bytes:
    """Bytes as text where they are UTF-8: Python 2's strings are text, or the data of an array."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


# ------------------------------------------------------------------------------ the reader

_Unpickler: Any = pickle._Unpickler     # has opcodes that no stub names
_Stop: Any = getattr(pickle, "_Stop")  # noqa: B009


class SafeUnpickler(_Unpickler):
    """Reads pickles, one after the other, from an open binary file.

    Parameters
    ----------
    file : binary file, seekable, read from its current position.
    path : the name for error messages.
    names : further globals to admit, name -> function of the arguments.
    persistent : function of a persistent id (PyTorch's storages), None to refuse them.
    strict : whether text that is not UTF-8 is an error; if not it stays bytes.
    """

    allowed = _ALLOWED

    def __init__(self, file: BinaryIO, path: Any, *, names: dict[str, Callable[..., Any]] | None = None,
                 persistent: Callable[[Any], Any] | None = None, strict: bool = True):
        self.file, self.path, self.persistent, self.strict = file, os.fsdecode(path), persistent, strict
        self.names = {**_ADMITTED, **(names or {})}
        start = file.tell()
        self.size = file.seek(0, os.SEEK_END)
        file.seek(start)
        self.left = self.unpacked = self.converted = self.kept = 0
        self.source = _Source(self)
        super().__init__(self.source)
        self.dispatch = {code: _opcode(code, getattr(type(self), name)) for code, name in _METHODS.items()}

    def load(self) -> Any:
        """Read one pickle.

        Returns
        -------
        Numbers, str, list, tuple, dict, OrderedDict, set, frozenset, None and NumPy arrays
        (which may be read-only views of what was read); NumPy scalars become Python numbers,
        bytes that are UTF-8 become str.

        Raises
        ------
        StorytellerError : the pickle is damaged, or asks for anything else.
        """
        def work() -> Any:
            value = self.run()
            _Check(self.strict).count(value)
            return value
        return self.guarded(work)

    def guarded(self, work: Callable[[], Any]) -> Any:
        """Call `work`, turning whatever a bad file provokes into the one exception."""
        try:
            return work()
        except StorytellerError:
            raise
        except Refused as error:
            raise StorytellerError(f"{self.path}: {error}; {AGAIN}, from a source you trust") from None
        except MemoryError:
            raise StorytellerError(f"{self.path}: does not fit in memory; free some memory, or {AGAIN}") from None
        except OSError as error:
            raise StorytellerError(f"{self.path}: cannot be read ({error.strerror or error}); {AGAIN}") from error
        except Exception as error:
            # A wrong opcode can trip over nearly anything: a missing mark, a tuple too short.
            if self.converted and not self.kept:
                raise StorytellerError(f"{self.path}: {_CONVERTED}; {AGAIN}") from error
            reason = str(error)[:100] if isinstance(error, pickle.UnpicklingError) else type(error).__name__
            raise StorytellerError(f"{self.path}: damaged pickle near byte {self.file.tell()} ({reason}); {AGAIN}"
                                   ) from error

    def run(self) -> Any:
        """Read one pickle as `load` does, without looking at the result and without translating errors."""
        self.memo: dict[int, Any] = {}
        constant, per_byte, most = self.allowed
        self.left = min(constant + per_byte * self.size, most)
        self.unpacked = 0                   # bytes that calls were given
        self.converted = self.kept = 0      # lines that end in CR LF, and others
        self.read, self.readline = self.source.read, self.source.readline
        self.stack: list[Any] = []
        self.metastack: list[list[Any]] = []
        self.append = self.stack.append
        self.proto = 0
        read, dispatch = self.file.read, self.dispatch
        try:
            while True:
                self.left -= _STEP
                if self.left < 0:
                    self.pay(0)
                dispatch[(read(1) or self.source.read(1))[0]](self)
        except _Stop as stop:
            value = stop.value
        if self.converted and not self.kept:
            raise Refused(_CONVERTED)
        return value

    def pay(self, cost: int) -> None:
        """Take the memory of a step from what the file may cost."""
        self.left -= cost
        if self.left < 0:
            raise Refused("holds more items than a file of its size has a use for")

    def pay_for(self, args: Iterable) -> None:
        """Take what a call may make of its arguments, which a file can name again and again."""
        cost = _CONTAINER
        for part in args:
            if type(part) in (list, tuple):
                cost += _KEY * len(part)
            elif type(part) in (str, bytes):
                self.unpacked += len(part)
        self.pay(cost)
        if self.unpacked > 3 * self.size + (1 << 26):
            raise Refused("uses its data again and again, as no model file does")

    # ---- what may be named and called

    def find_class(self, module: str, name: str) -> Name:
        full = f"{module}.{name}"
        if full not in self.names:
            shown = re.sub(r"[^\w.]", "?", full[:80])
            raise Refused(f"refuses to load because it asks for {shown}, which a model file has no use for")
        return Name(full, self.names[full])

    def get_extension(self, code: int) -> None:
        raise Refused("asks for an extension, which a model file has no use for")

    def persistent_load(self, pid: Any) -> Any:
        if self.persistent is None:
            raise Refused("refers to data outside itself")
        return self.persistent(pid)

    def _instantiate(self, name: Any, args: Any) -> None:
        if type(name) is not Name or type(args) not in (list, tuple):
            raise Refused("is a damaged pickle (a call of what cannot be called)")
        self.pay_for(args)
        self.append(name.call(*args))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self._instantiate(self.stack.pop(), args)

    def load_newobj_ex(self) -> None:
        if self.stack.pop() != {}:
            raise Refused("makes an object with keywords")
        self.load_reduce()

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(state) is tuple:
            self.pay_for(state)
        if isinstance(target, np.ndarray):
            _build_array(target, state)
        elif isinstance(target, np.dtype):
            _build_dtype(target, state)
        elif type(target) is not OrderedDict:
            # PyTorch hangs attributes (_metadata) on its OrderedDicts, which say nothing here.
            raise Refused("sets the state of what has none")

    # ---- what hashes

    def load_setitems(self, items: list | None = None) -> None:
        items = self.pop_mark() if items is None else items
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise Refused("is a damaged pickle (items without a dict)")
        self.pay(_KEY * len(items) // 2)
        for i in range(0, len(items), 2):
            target[_key(items[i])] = items[i + 1]

    def load_setitem(self) -> None:
        value = self.stack.pop()
        self.load_setitems([self.stack.pop(), value])

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self.load_setitems(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise Refused("is a damaged pickle (items without a set)")
        self.pay(_KEY * len(items))
        self.stack[-1].update(map(_key, items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.pay(_KEY * len(items))
        self.append(frozenset(map(_key, items)))

    # ---- what grows

    def load_mark(self) -> None:
        if len(self.metastack) > 2 * MAX_DEPTH:
            raise Refused(f"is nested more than {MAX_DEPTH} levels deep")
        super().load_mark()

    def put(self, index: int) -> None:
        self.pay(_MEMO)
        self.memo[index] = self.stack[-1]

    def load_put(self) -> None:
        self.put(int(self.readline()))

    def load_binput(self) -> None:
        self.put(self.read(1)[0])

    def load_long_binput(self) -> None:
        self.put(int.from_bytes(self.read(4), "little"))

    def load_memoize(self) -> None:
        self.put(len(self.memo))

    def load_appends(self, items: list | None = None) -> None:
        items = self.pop_mark() if items is None else items
        if type(self.stack[-1]) is not list:
            raise Refused("is a damaged pickle (items without a list)")
        self.stack[-1].extend(items)

    def load_append(self) -> None:
        self.load_appends([self.stack.pop()])

    # ---- what announces a size, or holds text

    def load_frame(self) -> None:
        count = int.from_bytes(self.read(8), "little")
        if count > self.size - self.file.tell():
            raise Refused(f"ends too early: a frame of {count} bytes is announced")

    def load_long4(self) -> None:
        count = int.from_bytes(self.read(4), "little")
        if count > MAX_DIGITS:
            raise Refused(f"holds a number of absurd length ({count} bytes)")
        self.append(int.from_bytes(self.read(count), "little", signed=True))

    def load_bytearray8(self) -> None:
        # The standard library's allocates before it reads.
        self.append(decoded(self.read(int.from_bytes(self.read(8), "little"))))

    def _decode_string(self, value: bytes) -> str | bytes:
        return decoded(value)


_CONVERTED = ("its line ends were converted from LF to CR LF (by git's autocrlf, or a transfer as text), "
              "which damages a pickle")


class _Source:
    """The file of a reader: gives no more than it holds, whatever is announced."""

    def __init__(self, reader: SafeUnpickler):
        self.reader, self.file = reader, reader.file

    def read(self, count: int) -> bytes:
        if count > 4096 and count > self.reader.size - self.file.tell():
            raise Refused(f"ends too early: {count} bytes are announced, which it does not have")
        data = self.file.read(count)
        if len(data) != count:
            raise Refused("ends too early (truncated)")
        return data

    def readline(self, limit: int = -1) -> bytes:
        line = self.file.readline(limit)
        if line[-1:] != b"\n":
            raise Refused("ends too early (truncated)" if limit < 0 or len(line) < limit else
                          "holds a number of absurd length")
        if line[-2:] == b"\r\n":
            self.reader.converted += 1
        else:
            self.reader.kept += 1
        return line


# How the opcodes of the standard library are called, and those that need something around them.
_METHODS = {code: load.__name__ for code, load in _Unpickler.dispatch.items()}
_METHODS[pickle.NEWOBJ[0]] = "load_reduce"
for _code in (pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
    del _METHODS[_code[0]]
_CONTAINERS, _SHORT_LINES, _BYTES = b"])}lt\x85\x86\x87\x8f", b"ILFgp", b"BC\x8e"


def _opcode(code: int, load: Callable[[Any], None]) -> Callable[[Any], None]:
    def container(self: SafeUnpickler) -> None:
        self.pay(_CONTAINER)    # more memory than bytes in the file
        load(self)

    def number(self: SafeUnpickler) -> None:
        readline = self.readline
        self.readline = partial(self.source.readline, MAX_DIGITS)
        try:
            load(self)
        finally:
            self.readline = readline

    def text(self: SafeUnpickler) -> None:
        load(self)
        self.stack[-1] = decoded(self.stack[-1])    # like Python 2's strings

    return (container if code in _CONTAINERS else number if code in _SHORT_LINES else
            text if code in _BYTES else load)


_ATOMS = frozenset((str, int, float, bool, type(None), complex))


class _Check:
    """Walks what was read, so that whoever walks it later comes to an end."""

    def __init__(self, strict: bool):
        self.strict = strict
        self.known: dict[int, int] = {}     # id of a container -> items in it, itself included; 0 while open

    def count(self, value: Any, depth: int = 0, in_array: bool = False) -> int:
        kind = type(value)
        if kind in _ATOMS:
            return 1
        if kind is bytes:
            if self.strict and not in_array:
                raise Refused(f"holds text that is not UTF-8 ({value[:40]!r})")
            return 1
        if kind is Name:
            raise Refused(f"holds {value.name} where data is expected")
        if kind in (dict, OrderedDict):
            parts: Iterable = itertools.chain(value, value.values())
        elif kind in (list, tuple, set, frozenset):
            parts = value
        elif kind is np.ndarray and value.dtype.hasobject:
            parts, in_array = value.flat, True
        else:
            return 1        # an array, or what the `names` and `persistent` of a caller have made
        items = self.known.get(id(value))
        if items == 0:
            raise Refused("holds a list or dict that contains itself")
        if items is None:
            if depth >= MAX_DEPTH:
                raise Refused(f"is nested more than {MAX_DEPTH} levels deep")
            self.known[id(value)] = 0
            items = self.known[id(value)] = 1 + sum(
                1 if type(part) in _ATOMS else self.count(part, depth + 1, in_array) for part in parts)
            if items > MAX_ITEMS:
                raise Refused(f"unfolds to more than {MAX_ITEMS} items")
        return items
