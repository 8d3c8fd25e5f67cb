"""A reader of pickles that cannot be made to do anything but read.

Model files come from strangers, and Python's own ``pickle`` runs whatever a file asks for.  The
machine here knows every opcode of protocols 0 to 5, but builds nothing except numbers, text, lists,
tuples, dicts, sets and NumPy arrays; a file that asks for anything else is refused by name.  It
reads no more than the file holds, whatever sizes the file declares, so a damaged or malicious file
costs an error and nothing more.

Opcodes and the encoding of their arguments: documentation of the standard library's `pickletools`.
"""
from __future__ import annotations

import codecs
import re
import struct
from collections import OrderedDict
from typing import Any, BinaryIO, Callable

import numpy as np

from ..errors import StorytellerError
from .io import AGAIN

CHUNK = 1 << 20
MAX_DEPTH = 100             # deeper nesting than any model file has
MAX_CONTAINERS = 4_000_000  # four times the words of the largest published dictionary
MAX_ITEMS = 50_000_000      # items after unfolding shared parts ("billion laughs")
MAX_DIGITS = 1024           # characters or bytes of one number: longer ones take quadratic time
MAX_KEY = (1 << 61) - 1     # larger integers can be chosen to collide in a dict


# ------------------------------------------------------------------------------ what is admitted

class Name:
    """A global that a pickle may name, and what calling it does here."""

    __slots__ = ("name", "call")

    def __init__(self, name: str, call: Callable[[tuple], Any]):
        self.name, self.call = name, call


class _Dtype:
    """A dtype of plain numbers, strings or objects; mutable, as a pickle sets its byte order."""

    __slots__ = ("value",)

    def __init__(self, value: np.dtype):
        self.value = value


class _Array:
    """An array between its making and its filling; `value` is then an ndarray, or for object
    arrays the pair (shape, list)."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None


class _Refused(Exception):
    """Something in the pickle is not as it must be; becomes a StorytellerError with the file."""


_SIZES = {"b": ("1",), "i": ("1", "2", "4", "8"), "u": ("1", "2", "4", "8"),
          "f": ("2", "4", "8"), "c": ("8", "16")}
_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric",
                  "numpy._core.numeric", "numpy")


def _text(value: Any) -> str:
    return value.decode("latin-1") if type(value) is bytes else value


def _key(value: Any) -> Any:
    """Dict keys and set members: only what hashes quickly, whoever chose it."""
    kind = type(value)
    if kind is str or kind is bytes or kind is bool or value is None:
        return value
    if kind is int:
        if -MAX_KEY < value < MAX_KEY:
            return value
        raise _Refused("uses an integer of more than 60 bits as a key")
    raise _Refused(f"uses a {kind.__name__} as a dict key or set member")


def _make_dtype(args: tuple) -> _Dtype:
    code = _text(args[0]) if args else None
    match = re.fullmatch(r"[<>|=]?([biufcSUO])(\d{0,6})", code) if type(code) is str else None
    if match is None:
        # Printing what is not text could take forever, so its type has to do.
        shown = repr(code[:30]) if type(code) is str else type(code).__name__
        raise _Refused(f"holds an array of an unusual type ({shown})")
    kind, size = match.groups()
    if kind == "O":
        return _Dtype(np.dtype(object))
    if size not in _SIZES.get(kind, (size,)):
        raise _Refused(f"holds an array of an unusual type ({code!r})")
    return _Dtype(np.dtype(code))


def _build_dtype(dtype: _Dtype, state: Any) -> None:
    plain = (type(state) is tuple and len(state) in (8, 9) and state[0] in (3, 4)
             and type(state[1]) in (bytes, str) and _text(state[1]) in ("<", ">", "|", "=")
             and state[2:5] == (None, None, None) and state[8:] in ((), (None,)))
    if not plain:
        raise _Refused("holds an array of a structured type")
    if dtype.value.kind != "O":
        dtype.value = dtype.value.newbyteorder(_text(state[1]))


def _check_shape(shape: Any) -> int:
    if type(shape) is not tuple or len(shape) > 32 or not all(
            type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise _Refused("holds an array of an impossible shape")
    size = 1
    for n in shape:
        size *= n
    return size


def _array_from(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """View `raw` as an array, once its length is found to be what shape and dtype say."""
    size = _check_shape(shape)
    if type(dtype) is not _Dtype or dtype.value.kind == "O" or not dtype.value.itemsize:
        raise _Refused("holds an array without a usable type")
    if type(raw) not in (bytes, bytearray) or len(raw) != size * dtype.value.itemsize:
        raise _Refused(f"holds an array whose data do not fit its shape {shape}")
    return np.frombuffer(raw, dtype.value).reshape(shape, order=order)


def _build_array(array: _Array, state: Any) -> None:
    if type(state) is not tuple or len(state) != 5 or state[0] != 1:
        raise _Refused("holds an array in an unknown form")
    _, shape, dtype, fortran, raw = state
    if type(dtype) is _Dtype and dtype.value.kind == "O":
        if type(raw) is not list or len(raw) != _check_shape(shape):
            raise _Refused("holds an object array whose items do not fit its shape")
        array.value = (shape, raw, "F" if fortran else "C")
    else:
        array.value = _array_from(raw, dtype, shape, "F" if fortran else "C")


def _make_array(args: tuple) -> _Array:
    good = (len(args) == 3 and type(args[0]) is Name and args[0].name.endswith(".ndarray")
            and args[1] == (0,) and _text(args[2]) == "b")
    if not good:
        raise _Refused("makes an array in an unknown form")
    return _Array()


def _array_from_buffer(args: tuple) -> _Array:
    if len(args) not in (4, 5) or args[3] not in ("C", "F", "K", "A"):
        raise _Refused("makes an array in an unknown form")
    axes = args[4] if len(args) == 5 else None
    result = _Array()
    result.value = _array_from(args[0], args[1], args[2], "F" if args[3] == "F" else "C")
    if axes is not None:
        _check_shape(axes)
        result.value = result.value.transpose(axes)
    return result


def _make_scalar(args: tuple) -> Any:
    if len(args) == 2 and type(args[0]) is _Dtype and args[0].value.kind in "SU" and not args[1]:
        return ""
    if len(args) != 2:
        raise _Refused("makes a NumPy number in an unknown form")
    return _array_from(args[1], args[0], (), "C").item()


def _encode(args: tuple) -> bytes:
    # This is how Python 3 writes bytes in protocols 0 to 2.
    if (len(args) != 2 or type(args[0]) is not str
            or args[1] not in ("latin1", "latin-1", b"latin1", b"latin-1")):
        raise _Refused("encodes text in an unknown form")
    return args[0].encode("latin-1")


def _make_ordered(args: tuple) -> OrderedDict:
    result: OrderedDict = OrderedDict()
    if len(args) > 1 or (args and type(args[0]) is not list):
        raise _Refused("makes an OrderedDict in an unknown form")
    for pair in args[0] if args else ():
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise _Refused("makes an OrderedDict in an unknown form")
        result[_key(pair[0])] = pair[1]
    return result


def _make_set(kind: type) -> Callable[[tuple], Any]:
    def make(args: tuple) -> Any:
        if len(args) > 1 or (args and type(args[0]) not in (list, tuple)):
            raise _Refused("makes a set in an unknown form")
        return kind(_key(item) for item in (args[0] if args else ()))
    return make


def _make_bytes(args: tuple) -> bytes:
    # Python 3 writes b"" so; any argument could be a huge size and is refused.
    if args:
        raise _Refused("makes bytes in an unknown form")
    return b""


def _make_bytearray(args: tuple) -> bytes:
    if not args:
        return b""
    if len(args) == 1 and type(args[0]) is bytes:
        return args[0]
    return _encode(args)


def _make_complex(args: tuple) -> complex:
    if len(args) != 2 or not all(type(part) is float for part in args):
        raise _Refused("makes a complex number in an unknown form")
    return complex(*args)


def _not_called(args: tuple) -> Any:
    raise _Refused("makes an array in an unknown form")


def _admitted() -> dict[str, Callable[[tuple], Any]]:
    names: dict[str, Callable[[tuple], Any]] = {
        "collections.OrderedDict": _make_ordered, "_codecs.encode": _encode}
    for module in ("__builtin__", "builtins"):
        names[module + ".set"] = _make_set(set)
        names[module + ".frozenset"] = _make_set(frozenset)
        names[module + ".bytes"] = _make_bytes
        names[module + ".bytearray"] = _make_bytearray
        names[module + ".complex"] = _make_complex
    for module in _NUMPY_MODULES:
        names[module + "._reconstruct"] = _make_array
        names[module + "._frombuffer"] = _array_from_buffer
        names[module + ".scalar"] = _make_scalar
        names[module + ".dtype"] = _make_dtype
        names[module + ".ndarray"] = _not_called
    return names


ADMITTED = _admitted()


# ------------------------------------------------------------------------------ the machine

class Machine:
    """Reads pickles, one after the other, from an open binary file.

    Parameters
    ----------
    file : binary file, seekable, read from its current position.
    size : position in `file` where its contents end; nothing beyond is asked for.
    path : the name for error messages.
    names : further globals to admit, name -> function of the argument tuple.
    persistent : function of a persistent id (PyTorch's storages), None to refuse them.
    strict : whether a byte string that is not UTF-8 is an error; if not it is read as Latin-1.

    Notes
    -----
    Python 2's str is bytes on the machine's stack, as it may be array data; `load` turns what
    is left of it in containers into str at the end.
    """

    def __init__(self, file: BinaryIO, size: int, path: Any, *,
                 names: dict[str, Callable[[tuple], Any]] | None = None,
                 persistent: Callable[[Any], Any] | None = None, strict: bool = True):
        self.file, self.size, self.path = file, size, path
        self.persistent, self.strict = persistent, strict
        self.names = dict(ADMITTED, **(names or {}))
        self.base = file.tell()     # position in the file of buf[0]
        self.buf = b""
        self.pos = 0                # next byte to read, in buf
        self.containers = 0
        self.operations: list[Callable[[], Any]] = [self.unknown] * 256
        for code, method in _OPCODES.items():
            self.operations[code] = getattr(self, method)

    # ---- reading

    def tell(self) -> int:
        """Position in the file of the next byte to read."""
        return self.base + self.pos

    def fill(self, count: int) -> None:
        """Have at least `count` bytes at hand, or raise _Refused where the file ends before."""
        have = len(self.buf) - self.pos
        left = self.size - self.base - len(self.buf)
        if count > have + left:
            raise _Refused("ends too early (truncated)" if not have + left else
                           f"ends too early: {count} bytes are announced, {have + left} are left")
        wanted = min(left, max(count - have, CHUNK))
        chunk = self.file.read(wanted)
        if len(chunk) != wanted:
            raise _Refused("ends too early (truncated)")
        self.buf = self.buf[self.pos:] + chunk
        self.base += self.pos
        self.pos = 0

    def take(self, count: int) -> bytes:
        end = self.pos + count
        if end > len(self.buf):
            if count > CHUNK and count <= self.size - self.tell():
                # Straight into its own bytes object: these can be hundreds of megabytes.
                self.file.seek(self.tell())
                data = self.file.read(count)
                if len(data) != count:
                    raise _Refused("ends too early (truncated)")
                self.base, self.buf, self.pos = self.tell() + count, b"", 0
                return data
            self.fill(count)
            end = count
        data = self.buf[self.pos:end]
        self.pos = end
        return data

    def line(self) -> bytes:
        searched = 0
        while True:
            end = self.buf.find(b"\n", self.pos + searched)
            if end >= 0:
                data = self.buf[self.pos:end]
                self.pos = end + 1
                return data
            searched = len(self.buf) - self.pos
            # Doubling keeps the copying linear in the length of the line.
            left = self.size - self.base - len(self.buf)
            self.fill(searched + max(1, min(left, searched)))

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    # ---- running

    def load(self) -> Any:
        """Read one pickle.

        Returns
        -------
        Numbers, str, list, tuple, dict, OrderedDict, set, frozenset, None and NumPy arrays
        (which may be read-only views of what was read); NumPy scalars become Python numbers.

        Raises
        ------
        StorytellerError : the pickle is damaged, or asks for anything else.
        """
        return self.guarded(lambda: _Plain(self.strict).convert(self.run()))

    def guarded(self, work: Callable[[], Any]) -> Any:
        """Call `work`, turning whatever a bad file provokes into the one exception."""
        try:
            return work()
        except StorytellerError:
            raise
        except _Refused as error:
            raise StorytellerError(f"{self.path}: {error}; {AGAIN}, from a source you trust"
                                   ) from None
        except MemoryError:
            raise StorytellerError(f"{self.path}: does not fit in memory; free some memory, or "
                                   + AGAIN) from None
        except OSError as error:
            raise StorytellerError(f"{self.path}: cannot be read ({error.strerror or error}); "
                                   + AGAIN) from error
        except Exception as error:
            # A wrong opcode can trip over nearly anything: a missing mark, a tuple too short.
            raise StorytellerError(f"{self.path}: damaged pickle near byte {self.tell()} "
                                   f"({type(error).__name__}); {AGAIN}") from error

    def run(self) -> Any:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []    # the stacks under each open mark
        self.memo: dict[int, Any] = {}
        self.memoized = 0
        operations = self.operations
        self.running = True
        while self.running:
            if self.pos >= len(self.buf):
                self.fill(1)
            code = self.buf[self.pos]
            self.pos += 1
            operations[code]()
        return self.stack.pop()

    def unknown(self) -> None:
        raise _Refused(f"is not a pickle, or a damaged one (byte {self.tell() - 1})")

    def stop(self) -> None:
        self.running = False

    # ---- stack and memo

    def mark(self) -> None:
        if len(self.below) > 2 * MAX_DEPTH:
            raise _Refused(f"is nested more than {MAX_DEPTH} levels deep")
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def dup(self) -> None:
        self.stack.append(self.stack[-1])

    def put(self, index: int) -> None:
        if index < 0:
            raise _Refused("is a damaged pickle (negative memo index)")
        self.memo[index] = self.stack[-1]

    def put_line(self) -> None:
        self.put(self.small_int(self.line()))

    def put_1(self) -> None:
        self.put(self.number(1))

    def put_4(self) -> None:
        self.put(self.number(4))

    def memoize(self) -> None:
        self.put(self.memoized)
        self.memoized += 1

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise _Refused(f"refers back to entry {index}, which is not there")
        self.stack.append(self.memo[index])

    def get_line(self) -> None:
        self.get(self.small_int(self.line()))

    def get_1(self) -> None:
        self.get(self.number(1))

    def get_4(self) -> None:
        self.get(self.number(4))

    def proto(self) -> None:
        version = self.number(1)
        if version > 5:
            raise _Refused(f"is a pickle of protocol {version}, newer than 5")

    def frame(self) -> None:
        count = self.number(8)
        if count > self.size - self.tell():
            raise _Refused(f"ends too early: a frame of {count} bytes is announced")

    # ---- atoms

    @staticmethod
    def small_int(text: bytes) -> int:
        if len(text) > MAX_DIGITS or b"_" in text:
            raise _Refused("holds a number of absurd length")
        return int(text)

    def none(self) -> None:
        self.stack.append(None)

    def true(self) -> None:
        self.stack.append(True)

    def false(self) -> None:
        self.stack.append(False)

    def int_line(self) -> None:
        text = self.line()
        self.stack.append(text == b"01" if text in (b"00", b"01") else self.small_int(text))

    def long_line(self) -> None:
        text = self.line()
        self.stack.append(self.small_int(text[:-1] if text.endswith(b"L") else text))

    def int_1(self) -> None:
        self.stack.append(self.number(1))

    def int_2(self) -> None:
        self.stack.append(self.number(2))

    def int_4(self) -> None:
        self.stack.append(int.from_bytes(self.take(4), "little", signed=True))

    def long_1(self) -> None:
        self.stack.append(int.from_bytes(self.take(self.number(1)), "little", signed=True))

    def long_4(self) -> None:
        count = self.number(4)
        if count > MAX_DIGITS:
            raise _Refused(f"holds a number of absurd length ({count} bytes)")
        self.stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def float_line(self) -> None:
        text = self.line()
        if len(text) > MAX_DIGITS:
            raise _Refused("holds a number of absurd length")
        self.stack.append(float(text))

    def float_8(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def string_line(self) -> None:
        text = self.line()
        if len(text) < 2 or text[:1] not in (b"'", b'"') or text[-1:] != text[:1]:
            raise _Refused("is a damaged pickle (a string without quotes)")
        self.stack.append(codecs.escape_decode(text[1:-1])[0])

    def unicode_line(self) -> None:
        self.stack.append(self.line().decode("raw-unicode-escape"))

    def bytes_1(self) -> None:
        self.stack.append(self.take(self.number(1)))

    def bytes_4(self) -> None:
        self.stack.append(self.take(self.number(4)))

    def bytes_8(self) -> None:
        self.stack.append(self.take(self.number(8)))

    def unicode_1(self) -> None:
        self.stack.append(self.take(self.number(1)).decode("utf-8", "surrogatepass"))

    def unicode_4(self) -> None:
        self.stack.append(self.take(self.number(4)).decode("utf-8", "surrogatepass"))

    def unicode_8(self) -> None:
        self.stack.append(self.take(self.number(8)).decode("utf-8", "surrogatepass"))

    # ---- containers

    def push_container(self, container: Any) -> None:
        # An empty dict is one byte in the file and 64 in memory, hence the limit.
        self.containers += 1
        if self.containers > MAX_CONTAINERS:
            raise _Refused(f"holds more than {MAX_CONTAINERS} lists, tuples and dicts")
        self.stack.append(container)

    def empty_list(self) -> None:
        self.push_container([])

    def list_(self) -> None:
        items = self.pop_mark()
        self.empty_list()
        self.extend(items)

    def append(self) -> None:
        self.extend([self.stack.pop()])

    def appends(self) -> None:
        self.extend(self.pop_mark())

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _Refused("is a damaged pickle (items without a list)")
        self.stack[-1].extend(items)

    def tuple_(self) -> None:
        self.push_container(tuple(self.pop_mark()))

    def tuple_0(self) -> None:
        self.stack.append(())

    def tuple_n(self, count: int) -> None:
        stack = self.stack
        if len(stack) < count:
            raise _Refused("is a damaged pickle (a tuple without items)")
        items = tuple(stack[-count:])
        del stack[-count:]
        self.push_container(items)

    def tuple_1(self) -> None:
        self.tuple_n(1)

    def tuple_2(self) -> None:
        self.tuple_n(2)

    def tuple_3(self) -> None:
        self.tuple_n(3)

    def empty_dict(self) -> None:
        self.push_container({})

    def dict_(self) -> None:
        items = self.pop_mark()
        self.empty_dict()
        self.update(items)

    def set_item(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self.update([key, value])

    def set_items(self) -> None:
        self.update(self.pop_mark())

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise _Refused("is a damaged pickle (items without a dict)")
        for i in range(0, len(items), 2):
            target[_key(items[i])] = items[i + 1]

    def empty_set(self) -> None:
        self.push_container(set())

    def add_items(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise _Refused("is a damaged pickle (items without a set)")
        self.stack[-1].update(_key(item) for item in items)

    def frozen_set(self) -> None:
        self.push_container(frozenset(_key(item) for item in self.pop_mark()))

    # ---- the few things that may be named

    def push_name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise _Refused("is a damaged pickle (a global without a name)")
        full = f"{module}.{name}"
        if full not in self.names:
            shown = re.sub(r"[^\w.]", "?", full[:80])
            raise _Refused(f"refuses to load because it asks for {shown}, which a model file has "
                           "no use for")
        self.stack.append(Name(full, self.names[full]))

    def global_line(self) -> None:
        module = self.line().decode("utf-8")
        self.push_name(module, self.line().decode("utf-8"))

    def global_stack(self) -> None:
        name = self.stack.pop()
        self.push_name(self.stack.pop(), name)

    def call(self, function: Any, args: Any) -> None:
        if type(function) is not Name or type(args) is not tuple:
            raise _Refused("is a damaged pickle (a call of what cannot be called)")
        self.push_container(function.call(args))

    def reduce(self) -> None:
        args = self.stack.pop()
        self.call(self.stack.pop(), args)

    def new_object_keywords(self) -> None:
        if self.stack.pop() != {}:
            raise _Refused("makes an object with keywords")
        self.reduce()

    def instance_line(self) -> None:
        args = tuple(self.pop_mark())
        self.global_line()
        self.call(self.stack.pop(), args)

    def object_(self) -> None:
        items = self.pop_mark()
        self.call(items[0], tuple(items[1:]))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is _Array:
            _build_array(target, state)
        elif type(target) is _Dtype:
            _build_dtype(target, state)
        elif type(target) is not OrderedDict:
            # PyTorch hangs attributes (_metadata) on its OrderedDicts, which say nothing here.
            raise _Refused("sets the state of what has none")

    def persistent_line(self) -> None:
        raise _Refused("refers to data outside itself")

    def persistent_stack(self) -> None:
        if self.persistent is None:
            raise _Refused("refers to data outside itself")
        self.stack.append(self.persistent(self.stack.pop()))


_OPCODES = {code[0] if isinstance(code, bytes) else code: method for code, method in {
    b"(": "mark", b".": "stop", b"0": "pop", b"1": "pop_mark", b"2": "dup", b"F": "float_line",
    b"I": "int_line", b"J": "int_4", b"K": "int_1", b"L": "long_line", b"M": "int_2",
    b"N": "none", b"P": "persistent_line", b"Q": "persistent_stack", b"R": "reduce",
    b"S": "string_line", b"T": "bytes_4", b"U": "bytes_1", b"V": "unicode_line",
    b"X": "unicode_4", b"a": "append", b"b": "build", b"c": "global_line", b"d": "dict_",
    b"}": "empty_dict", b"e": "appends", b"g": "get_line", b"h": "get_1", b"i": "instance_line",
    b"j": "get_4", b"l": "list_", b"]": "empty_list", b"o": "object_", b"p": "put_line",
    b"q": "put_1", b"r": "put_4", b"s": "set_item", b"t": "tuple_", b")": "tuple_0",
    b"u": "set_items", b"G": "float_8", 0x80: "proto", 0x81: "reduce", 0x85: "tuple_1",
    0x86: "tuple_2", 0x87: "tuple_3", 0x88: "true", 0x89: "false", 0x8a: "long_1",
    0x8b: "long_4", b"B": "bytes_4", b"C": "bytes_1", 0x8c: "unicode_1", 0x8d: "unicode_8",
    0x8e: "bytes_8", 0x8f: "empty_set", 0x90: "add_items", 0x91: "frozen_set",
    0x92: "new_object_keywords", 0x93: "global_stack", 0x94: "memoize", 0x95: "frame",
    0x96: "bytes_8"}.items()}


class _Plain:
    """Turns what the machine built into plain Python: bytes to str, placeholders to arrays.

    Every shared part is converted once; parts that hold themselves, nest too deep or unfold to
    too many items are refused, so that whoever walks the result comes to an end.
    """

    def __init__(self, strict: bool):
        self.strict = strict
        self.done: dict[int, tuple[Any, int]] = {}
        self.active: set[int] = set()
        self.items = 0
        self.in_array = False

    def convert(self, value: Any, depth: int = 0) -> Any:
        self.items += 1
        kind = type(value)
        if kind is str or kind is int or kind is float or kind is bool or value is None:
            return value
        if kind is bytes:
            return self.decode(value)
        if kind is complex:
            return value
        if kind is _Dtype:
            return value.value
        if kind is Name:
            raise _Refused(f"holds {value.name} where data is expected")
        if kind is _Array and type(value.value) is not tuple:
            return np.empty(0) if value.value is None else value.value
        if kind not in (list, tuple, dict, OrderedDict, set, frozenset, _Array):
            return value    # what the `names` and `persistent` of a caller have made
        key = id(value)
        if key in self.done:
            result, items = self.done[key]
            self.items += items
        else:
            if key in self.active:
                raise _Refused("holds a list or dict that contains itself")
            if depth >= MAX_DEPTH:
                raise _Refused(f"is nested more than {MAX_DEPTH} levels deep")
            before = self.items
            self.active.add(key)
            result = self.container(value, kind, depth + 1)
            self.active.discard(key)
            self.done[key] = (result, self.items - before)
        if self.items > MAX_ITEMS:
            raise _Refused(f"unfolds to more than {MAX_ITEMS} items")
        return result

    def container(self, value: Any, kind: type, depth: int) -> Any:
        convert = self.convert
        if kind is _Array:
            shape, items, order = value.value
            array = np.empty(len(items), dtype=object)
            outside, self.in_array = self.in_array, True
            for i, item in enumerate(items):
                array[i] = convert(item, depth)
            self.in_array = outside
            return array.reshape(shape, order=order)
        if kind is dict or kind is OrderedDict:
            return kind((convert(k, depth), convert(v, depth)) for k, v in value.items())
        return kind([convert(item, depth) for item in value])

    def decode(self, value: bytes) -> str | bytes:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            if self.in_array:
                return value
            if not self.strict:
                return value.decode("latin-1")
            raise _Refused(f"holds text that is not UTF-8 ({value[:40]!r})") from None


# ------------------------------------------------------------------------------ tables

_ROW = object()         # stands on the stack for a row that has been written
_TABLE = object()       # stands for the whole table
_KEPT = 65536           # memo entries to keep; what real files refer back to comes first


class _Rows:
    """Stands for the list of rows: only how many."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class _Template:
    """The bytes of one row, of which later rows differ only in their data and memo numbers."""

    def __init__(self, row: bytes, data: tuple[int, int], puts: list[int], memoized: int):
        self.length, self.data, self.puts, self.memoized = len(row), data, puts, memoized
        self.row = np.frombuffer(row, np.uint8)
        fixed = np.ones(len(row), bool)
        fixed[data[0]:data[1]] = False
        for at in puts:
            fixed[at:at + 4] = False
        self.fixed = np.flatnonzero(fixed)
        # One slice each side of the data compares faster than a list of columns.
        self.simple = not puts

    def matches(self, rows: np.ndarray, highest: int) -> int:
        """How many of `rows`, a (k, length) uint8 array, follow the template from the first on."""
        start, end = self.data
        if self.simple:
            good = (rows[:, :start] == self.row[:start]).all(axis=1)
            good &= (rows[:, end:] == self.row[end:]).all(axis=1)
        else:
            good = (rows[:, self.fixed] == self.row[self.fixed]).all(axis=1)
            for at in self.puts:
                # A memo number in use could be referred to later, so leave that to the machine.
                number = np.ascontiguousarray(rows[:, at:at + 4]).view("<u4")[:, 0]
                good &= number > highest
        return len(good) if good.all() else int(np.argmin(good))


class TableMachine(Machine):
    """Writes the rows of a pickled object array of small arrays out as it comes across them.

    Each row leaves the stack as soon as it is complete, and the memo keeps only what rows have in
    common (globals, dtypes, short strings), so memory stays bounded whatever the size of the file.
    Rows that repeat the bytes of the one before but for their data, as nearly all in the
    published tables do, are taken hundreds at a time.

    Parameters
    ----------
    file, size, path : as for `Machine`; the file stands behind the .npy header.
    rows : number of rows that the header declares.
    out : binary file for the rows, float32, C order.
    progress : called with the number of rows done.
    """

    def __init__(self, file: BinaryIO, size: int, path: Any, rows: int, out: BinaryIO,
                 progress: Callable[[int], Any] | None = None):
        super().__init__(file, size, path)
        self.expected, self.out, self.progress = rows, out, progress
        self.written = 0
        self.dim = -1
        self.dtype = self.row_dtype = np.dtype("<f4")   # of the last row, of the template
        self.template: _Template | None = None
        self.last_data: tuple[Any, int, int] = (None, 0, 0)     # bytes, start, end in the file
        self.row_end = -1                   # where the row before ended in the file,
        self.row_stack: Any = None          # the stack on which it was left,
        self.row_height = 0                 # and the height of that stack
        self.row_puts: list[int] = []       # places of memo numbers since
        self.row_memoized = 0
        self.highest = -1                   # highest memo number kept
        self.shown = 0

    def convert(self) -> tuple[int, int]:
        """Write all rows; return (rows, dim)."""
        self.guarded(self.all_rows)
        return self.written, self.dim

    def all_rows(self) -> None:
        if self.run() is not _TABLE:
            raise _Refused("does not hold a table of word vectors")
        if self.written != self.expected:
            raise _Refused(f"holds {self.written} rows, but its header says {self.expected}")
        if self.progress is not None:
            self.progress(self.written)

    # ---- memory stays bounded

    def put(self, index: int) -> None:
        value = self.stack[-1]
        kind = type(value)
        if kind is Name or kind is _Dtype or (kind in (bytes, str) and len(value) <= 32):
            if len(self.memo) < _KEPT or index in self.memo:
                self.memo[index] = value
                self.highest = max(self.highest, index)
                return
        self.memo.pop(index, None)

    def put_4(self) -> None:
        self.row_puts.append(self.tell())
        super().put_4()

    def memoize(self) -> None:
        self.row_memoized += 1
        super().memoize()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise _Refused(f"refers back to entry {index}, which a table of word vectors does "
                           "not do in any known form (save it as a plain float32 matrix)")
        self.stack.append(self.memo[index])

    def push_container(self, container: Any) -> None:
        if type(container) is _Array and container.value is not None:
            container = self.emit(container.value)
        self.stack.append(container)
        if container is _ROW:
            self.repeat()

    def fill(self, count: int) -> None:
        if sum(map(len, self.below)) + len(self.stack) > MAX_CONTAINERS:
            raise _Refused("does not hold a table of word vectors in any known form")
        super().fill(count)

    def empty_list(self) -> None:
        self.stack.append(_Rows())

    def empty_dict(self) -> None:
        raise _Refused("holds dicts, not a table of word vectors")

    def empty_set(self) -> None:
        raise _Refused("holds sets, not a table of word vectors")

    def extend(self, items: list[Any]) -> None:
        rows = self.stack[-1]
        if type(rows) is not _Rows:
            raise _Refused("is a damaged pickle (items without a list)")
        for i, item in enumerate(items):
            if item is not _ROW:
                raise _Refused(f"row {rows.count + i} is a {type(item).__name__}, not an array "
                               "of numbers")
        rows.count += len(items)

    def bytes_1(self) -> None:
        super().bytes_1()
        self.remember_data()

    def bytes_4(self) -> None:
        super().bytes_4()
        self.remember_data()

    def remember_data(self) -> None:
        data, end = self.stack[-1], self.tell()
        self.last_data = (data, end - len(data), end)

    # ---- rows

    def build(self) -> None:
        state = self.stack[-1]
        target = self.stack[-2]
        if type(target) is not _Array:
            super().build()
            return
        if type(state) is tuple and len(state) == 5 and type(state[4]) is _Rows:
            if state[1] != (self.expected,) or state[4].count != self.written:
                raise _Refused(f"holds {state[4].count} rows, but its header says "
                               f"{self.expected}")
            self.stack[-2:] = [_TABLE]
            return
        _build_array(target, state)
        self.stack[-2:] = [self.emit(target.value)]
        self.repeat()

    def emit(self, row: Any) -> Any:
        """Write one row; return what stands for it on the stack."""
        n = self.written
        if type(row) is not np.ndarray or row.dtype.kind != "f":
            found = row.dtype if type(row) is np.ndarray else "objects"
            raise _Refused(f"row {n} holds {found}, not floating-point numbers")
        if row.size != max(row.shape or (0,)) or row.size == 0:
            raise _Refused(f"row {n} has shape {row.shape}, not one vector")
        if n == 0:
            self.dim = row.size
        elif row.size != self.dim:
            raise _Refused(f"row {n} has {row.size} numbers where row 0 has {self.dim}")
        if n >= self.expected:
            raise _Refused(f"holds more rows than the {self.expected} of its header")
        self.write(row)
        self.dtype = row.dtype
        return _ROW

    def write(self, rows: np.ndarray) -> None:
        rows = np.ascontiguousarray(rows, dtype="<f4")
        try:
            self.out.write(rows.data if rows.size else b"")
        except OSError as error:
            raise StorytellerError(f"{self.path}: its converted table cannot be written "
                                   f"({error.strerror or error}); make room or choose another "
                                   "folder") from error
        self.written += rows.size // self.dim
        if self.progress is not None and self.written - self.shown >= 4096:
            self.shown = self.written
            self.progress(self.written)

    def repeat(self) -> None:
        """After a row: take all that follow in the same form at once."""
        if self.template is None or not self.follow():
            self.learn()
        self.row_end, self.row_stack, self.row_height = self.tell(), self.stack, len(self.stack)
        self.row_puts, self.row_memoized = [], 0

    def learn(self) -> None:
        """Make a template of the row just read, if it did nothing but put one row on the stack."""
        data, start, end = self.last_data
        origin = self.row_end
        if (origin < self.base or start < origin or self.stack is not self.row_stack
                or len(self.stack) != self.row_height + 1
                or end - start != self.dim * self.dtype.itemsize):
            return
        row = self.buf[origin - self.base:self.pos]
        self.template = _Template(row, (start - origin, end - origin),
                                  [at - origin for at in self.row_puts], self.row_memoized)
        self.row_dtype = self.dtype
        self.follow()

    def follow(self) -> bool:
        """Take the rows that follow the template; return whether there was any."""
        template = self.template
        start, end = template.data
        any_taken = False
        while self.written < self.expected:
            if len(self.buf) - self.pos < template.length:
                left = self.size - self.base - len(self.buf)
                if len(self.buf) - self.pos + left < template.length:
                    break
                self.fill(template.length)
            count = min((len(self.buf) - self.pos) // template.length, 1024,
                        self.expected - self.written)
            # The first alone, so that a template which no longer fits costs little.
            for k in (1, count):
                rows = np.frombuffer(self.buf, np.uint8, k * template.length, self.pos)
                rows = rows.reshape(k, template.length)
                found = template.matches(rows, self.highest)
                if not found:
                    return any_taken
            data = np.ascontiguousarray(rows[:found, start:end]).view(self.row_dtype)
            self.write(data)
            self.stack.extend([_ROW] * found)
            self.memoized += found * template.memoized
            self.pos += found * template.length
            any_taken = True
            if found < count:
                break
        return any_taken
