"""Every file format: real files of Python 2, round trips, and what bad files do (nothing)."""
from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from storyteller import files
from storyteller.errors import StorytellerError
from storyteller.files.vgg19 import KERAS_LAYERS, TORCH_LAYERS
from tests.practice import save_vgg19_pickle

GOLDENS = Path(__file__).parent / "goldens"


# ------------------------------------------------------------------------------ real files

@pytest.mark.parametrize("name", ["skipthoughts/uni_skip", "skipthoughts/bi_skip",
                                  "decoder/dec_doutput", "decoder/dec_plain", "decoder/dec_tiny",
                                  "embedding/coco_embedding", "embedding/bow_embedding"])
def test_golden_models(name):
    path = GOLDENS / (name + ".npz")
    options = files.load_options(str(path) + ".pkl")
    assert all(type(value) in (str, int, float, bool, type(None)) for value in options.values())
    names = files.array_names(path)
    with np.load(path) as expected:
        assert {key: expected[key].shape for key in expected.files} == names
        keys = [key for key in names if key != "history_errs"]
        arrays = files.load_arrays(path, keys, shapes={keys[0]: names[keys[0]]})
        for key in keys:
            assert arrays[key].dtype == np.float32 and arrays[key].flags.c_contiguous
            assert np.array_equal(arrays[key], expected[key])


def test_numpy_scalars_become_numbers():
    options = files.load_options(GOLDENS / "skipthoughts/bi_skip.npz.pkl")
    assert (options["dim"], options["decay_c"], options["grad_clip"]) == (12, 0.0, 5.0)
    assert type(options["dim"]) is int and options["reload_"] is False


def test_int_option():
    options = {"dim": 12, "float": 3.0, "numpy": np.int64(4)}
    assert [files.int_option(options, name, "x.pkl") for name in options] == [12, 3, 4]
    for value in (0, -1, 1.5, float("nan"), float("inf"), True, "12", None, [1], 1 << 40, 1j):
        with pytest.raises(StorytellerError, match="x.pkl: option 'dim'"):
            files.int_option({"dim": value}, "dim", "x.pkl")


@pytest.mark.parametrize("name", ["decoder/dec_doutput_dictionary.pkl",
                                  "decoder/dec_plain_dictionary.pkl",
                                  "decoder/dec_tiny_dictionary.pkl",
                                  "embedding/coco_embedding.npz.dictionary.pkl",
                                  "embedding/bow_embedding.npz.dictionary.pkl"])
def test_golden_dictionaries(name):
    words = files.load_dictionary(GOLDENS / name)
    with open(GOLDENS / name, "rb") as file:
        expected = pickle.load(file, encoding="utf-8")
    assert list(words.items()) == list(expected.items())


def test_dictionaries_in_our_own_form(tmp_path, monkeypatch):
    """What is read at once is what is read step by step, and so is what is damaged."""
    from storyteller.files import pickles
    words = {"<eos>": 0, "a": 1, "\u00e9t\u00e9": 255, "x" * 300: 256, "b": 65535, "c": 65536, "": 2,
             **{f"w{i}": i for i in range(2500)}}
    path = tmp_path / "words.pkl"
    files.save_pickle(path, words, {"counts": 1})
    data = path.read_bytes()
    assert list(pickles._plain_words(data).items()) == list(words.items())
    assert files.load_dictionary(path) == words and files.load_counts(path) == {"counts": 1}
    assert pickles._plain_words(pickle.dumps(words, 4)) is None

    def outcome(content):
        path.write_bytes(content)
        try:
            return files.load_dictionary(path)
        except StorytellerError as error:
            return str(error)
    small = files.save_pickle(path, dict(list(words.items())[:5] + [("n", -1)])) or path.read_bytes()
    changed = [small[:i] for i in range(len(small))]
    changed += [small[:i] + bytes([byte]) + small[i + 1:] for i in [*range(60), *range(len(small) - 30, len(small))]
                for byte in (0, 1, 0x71, 0xff, small[i] ^ 1)]
    at_once = list(map(outcome, changed))
    monkeypatch.setattr(pickles, "_plain_words", lambda data: None)
    assert at_once == list(map(outcome, changed))


def test_words_are_text():
    words = files.load_dictionary(GOLDENS / "embedding/coco_embedding.npz.dictionary.pkl")
    captions = (GOLDENS / "embedding/captions.txt").read_text("utf-8").split("\n")
    facts = json.loads((GOLDENS / "embedding/gru_facts.json").read_text("utf-8"))
    foreign = {word for line in captions for word in line.split()
               if word in words and not word.isascii()}
    assert foreign and facts


@pytest.mark.parametrize("name", ["utable.npy", "btable.npy"])
def test_golden_tables(name, tmp_path):
    path = GOLDENS / "object_tables" / name
    expected = np.load(GOLDENS / "skipthoughts" / name)
    assert files.is_object_table(path)
    assert files.table_shape(path) == (300,)
    assert not files.is_object_table(GOLDENS / "skipthoughts" / name)
    out = tmp_path / "table.npy"
    with files.write_atomically(out) as file:
        files.save_npy_header(file, (0, 0))
        start = file.tell()
        shape = files.convert_object_table(path, file)
        assert shape == (300, 20)
        file.seek(0)
        files.save_npy_header(file, shape)
        assert file.tell() == start and start % 64 == 0
    assert np.array_equal(np.load(out, mmap_mode="r"), expected)
    assert np.array_equal(files.load_matrix(out), expected)
    assert np.array_equal(files.load_matrix(out, mmap=True), expected)
    with pytest.raises(StorytellerError, match=name):
        files.load_matrix(path)


def npy_header(shape, descr="|O"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def object_table(rows, protocol=2):
    table = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        table[i] = row
    return npy_header((len(rows),)) + pickle.dumps(table, protocol)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype, shape", [("<f4", (5,)), ("<f4", (1, 300)), (">f4", (70,)),
                                          ("<f8", (20,))])
def test_tables_of_every_protocol(tmp_path, protocol, dtype, shape):
    rows = list(np.random.RandomState(0).randn(1500, *shape).astype(dtype))
    path = tmp_path / "table.npy"
    path.write_bytes(object_table(rows, protocol))
    out, seen = io.BytesIO(), []
    n, dim = files.convert_object_table(path, out, seen.append)
    assert (n, dim) == (1500, shape[-1]) and seen[-1] == 1500
    expected = np.array([row.ravel() for row in rows]).astype("<f4")
    assert out.getvalue() == expected.tobytes()


# ------------------------------------------------------------------------------ round trips

@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol(tmp_path, protocol):
    value = {"int": [0, 1, -1, 255, 65536, 1 << 40, -(1 << 60)], "float": (1.5, -2e300, 0.1),
             "text": ["", "café", "\u4e2d", "\n'\"\\"], "none": None, "flag": [True, False],
             "set": {1, 2}, "frozen": frozenset(["a"]), "nest": {"a": ([{}], ())},
             "order": OrderedDict([("z", 1), ("a", 2)]), "complex": 1 + 2j, "bytes": b"",
             "scalars": [np.float32(0.5), np.int64(7), np.bool_(True), np.float64(0.25)],
             "array": np.arange(6.0).reshape(2, 3), "fortran": np.asfortranarray(np.eye(3)[:2]),
             "strings": np.array(["a", "bc"]), "dtype": np.dtype("<f4"), "none of": np.empty(0)}
    value["array again"] = value["array"]
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    loaded = files.load_pickle(path)
    assert list(loaded) == list(value)
    for key, expected in value.items():
        if isinstance(expected, np.ndarray):
            assert loaded[key].dtype == expected.dtype
            assert np.array_equal(loaded[key], expected)
        elif key == "bytes":
            assert loaded[key] == ""
        else:
            assert loaded[key] == expected
    assert type(loaded["order"]) is OrderedDict
    assert [type(v) for v in loaded["scalars"]] == [float, int, bool, float]


def test_object_arrays(tmp_path):
    path = tmp_path / "a.pkl"
    array = np.array([None, "a", [1, 2]], dtype=object)
    path.write_bytes(pickle.dumps([array], 2))
    assert files.load_pickle(path)[0].tolist() == array.tolist()


def test_save_pickle(tmp_path):
    path = tmp_path / "dictionary.pkl"
    words = OrderedDict([("<eos>", 0), ("café", np.int64(2))])
    files.save_pickle(path, words, {"café": 17})
    assert files.load_dictionary(path) == {"<eos>": 0, "café": 2}
    with open(path, "rb") as file:
        assert pickle.load(file) == words
        assert pickle.load(file) == {"café": 17}
    assert path.read_bytes()[:2] == b"\x80\x02" and b"numpy" not in path.read_bytes()
    with pytest.raises(StorytellerError, match="dictionary.pkl"):
        files.save_pickle(path, {"f": lambda: 0})
    assert files.load_dictionary(path)["café"] == 2
    assert os.listdir(tmp_path) == ["dictionary.pkl"]


def test_save_arrays(tmp_path):
    path = tmp_path / "m.npz"
    arrays = {"file": np.ones((2, 3), np.float32), "f": np.asfortranarray(np.random.rand(3, 2)),
              "scalar": np.float32(2), "none": np.zeros((0,), np.float16)}
    files.save_arrays(path, **arrays)
    loaded = files.load_arrays(path, arrays, shapes={"file": (2, None)})
    for name, array in arrays.items():
        assert loaded[name].shape == np.shape(array) and loaded[name].dtype == np.float32
        assert np.array_equal(loaded[name], np.asarray(array).astype(np.float32))
    with np.load(path) as archive:
        assert np.array_equal(archive["f"], arrays["f"])
    first = path.read_bytes()
    files.save_arrays(path, **arrays)
    assert path.read_bytes() == first
    np.savez_compressed(path, a=np.arange(4.0))
    assert files.load_arrays(path, ["a"])["a"].tolist() == [0, 1, 2, 3]
    with pytest.raises(StorytellerError, match="m.npz"):
        files.save_arrays(path, a=np.array([None]))


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 1)])
def test_vectors(tmp_path, shape):
    np.save(tmp_path / "v.npy", np.arange(4.0).reshape(shape))
    vector = files.load_vector(tmp_path / "v.npy", 4)
    assert vector.dtype == np.float32 and vector.tolist() == [0, 1, 2, 3]


def test_writers_leave_nothing_behind(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), files.write_atomically(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]
    with files.write_atomically(path, sync=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    with pytest.raises(StorytellerError, match="nowhere"):
        files.save_pickle(tmp_path / "nowhere" / "x.pkl", {})
    with pytest.raises(StorytellerError, match="folder"):
        files.save_pickle(tmp_path, {})
    with pytest.raises(StorytellerError, match="x"), files.write_atomically(path):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("content, words", [
    (b"", "empty"), (b"<!DOCTYPE html><html>", "web page"), (b"\xff\xd8\xff\xe0", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"), (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS"),
    (pickle.dumps({}, 2), "pickle"), (pickle.dumps({"a": 1}, 0), "pickle"),
    (pickle.dumps([1], 1), "pickle"), (b"(dp1\nS'a'\np2\nI1\ns.", "pickle"),
    ("Ein Satz für sich.\n".encode(), "text"), (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\x1f\x8b\x08", "gzip"), (b"\0\1\2\xff", "unknown"), (npy_header((3,), "<f4"), "npy array"),
    (npy_header((3,)), "objects")])
def test_describe(tmp_path, content, words):
    (tmp_path / "f").write_bytes(content)
    assert words in files.describe(tmp_path / "f")


# ------------------------------------------------------------------------------ bad files

class _Evil:
    """Pickles to a call of anything."""

    def __init__(self, call, *args):
        self.reduced = call, args

    def __reduce__(self):
        return self.reduced


def named(name, *args):
    """A pickle that calls a function by name, which need not exist here."""
    module, _, function = name.rpartition(".")
    return (f"c{module}\n{function}\n".encode() + b"("
            + b"".join(pickle.dumps(a, 2)[2:-1] for a in args) + b"tR.")


def write(folder, content, name="bad.bin"):
    path = folder / name
    path.write_bytes(content)
    return path


def npz_bytes(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def zip_bytes(name, content, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1:]


def laughs():
    item = ["ha"] * 10
    for _ in range(30):
        item = [item] * 10
    return {"joke": item}


def deep(kind):
    return {"list": b"]" * 50000 + b"a" * 49999, "tuple": b")" + b"\x85" * 50000,
            "mark": b"(" * 50000 + b"t" * 50000}[kind] + b"."


WEIGHTS = npz_bytes(W=np.ones((3, 4), np.float32), i=np.arange(3), b=np.ones(4, np.float32))
OPTIONS = pickle.dumps({"dim": 5, "encoder": "gru"}, 2)
HTML = b"<!DOCTYPE html>\n<html><body>Not found</body></html>"
ROWS = [np.arange(4, dtype=np.float32) + i for i in range(3)]


def arrays_of(path):
    return files.load_arrays(path, ["W"], {"W": (3, None)})


def table_of(path):
    return files.convert_object_table(path, io.BytesIO())


def many_rows():
    # Enough that the damage falls where rows are taken by the hundred.
    return object_table([np.full(4, i, np.float32) for i in range(3000)], 3)


BAD = {
    # pickles that ask for something
    "os.system": (files.load_pickle, lambda: named("os.system", "touch MARKER")),
    "posix.system": (files.load_pickle, lambda: named("posix.system", "touch MARKER")),
    "eval": (files.load_options, lambda: pickle.dumps(_Evil(eval, "open('MARKER','w')"), 2)),
    "exec 4": (files.load_options, lambda: pickle.dumps(_Evil(exec, "open('MARKER','w')"), 4)),
    "import": (files.load_pickle, lambda: named("__builtin__.__import__", "os")),
    "getattr": (files.load_pickle, lambda: named("builtins.getattr", "", "join")),
    "subprocess": (files.load_dictionary,
                   lambda: named("subprocess.Popen", ["touch", "MARKER"])),
    "numpy.load": (files.load_pickle, lambda: named("numpy.load", "x")),
    "torch.load": (files.load_pickle, lambda: named("torch.load", "x")),
    "runstring": (files.load_pickle,
                  lambda: named("numpy.testing._private.utils.runstring", "x")),
    "dotted": (files.load_pickle,
               lambda: b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93."),
    "inst": (files.load_pickle, lambda: b"(S'touch MARKER'\nios\nsystem\n."),
    "obj": (files.load_pickle, lambda: b"(cos\nsystem\nS'touch MARKER'\no."),
    "extension": (files.load_pickle, lambda: b"\x80\x02\x82\x01."),
    "persistent": (files.load_pickle, lambda: b"\x80\x02Pos\n."),
    "huge bytes call": (files.load_pickle, lambda: named("__builtin__.bytes", 1 << 40)),
    "huge bytearray": (files.load_pickle, lambda: named("builtins.bytearray", 1 << 40)),
    "huge array call": (files.load_pickle, lambda: named("numpy.ndarray", (1 << 40,))),
    "huge reconstruct": (files.load_pickle, lambda: b"cnumpy.core.multiarray\n_reconstruct\n"
                         b"cnumpy\nndarray\n\x8a\x05\0\0\0\0\1\x85U\x01b\x87R."),
    "structured dtype": (files.load_pickle,
                         lambda: pickle.dumps(np.zeros(2, [("a", "f4")]), 2)),
    "array misfit": (files.load_pickle, lambda: pickle.dumps(np.zeros(9), 3).replace(
        b"K\x09\x85", b"K\x08\x85")),
    "huge array": (files.load_pickle, lambda: pickle.dumps(np.zeros(9), 3).replace(
        b"K\x09\x85", b"J\xff\xff\xff\x7f\x85")),
    # pickles that announce something
    "long_binput": (files.load_pickle, lambda: b"\x80\x02Nr\xff\xff\xff\xff.x"[:8]),
    "binstring": (files.load_pickle, lambda: b"\x80\x02T\xff\xff\xff\x7fabc."),
    "negative binstring": (files.load_pickle, lambda: b"\x80\x02T\xff\xff\xff\xffabc."),
    "binbytes8": (files.load_pickle, lambda: b"\x80\x04\x8e" + b"\xff" * 8 + b"a."),
    "bytearray8": (files.load_pickle, lambda: b"\x80\x05\x96" + b"\xff" * 7 + b"\x7fa."),
    "frame": (files.load_pickle, lambda: b"\x80\x04\x95" + b"\xff" * 8 + b"N."),
    "long4": (files.load_pickle, lambda: b"\x80\x02\x8b\xff\xff\xff\x7f1."),
    "long digits": (files.load_pickle, lambda: b"\x80\x02L" + b"9" * 200000 + b"L\n."),
    "int digits": (files.load_pickle, lambda: b"\x80\x02I" + b"9" * 200000 + b"\n."),
    # pickles of awkward structure
    "deep list": (files.load_pickle, lambda: deep("list")),
    "deep tuple": (files.load_pickle, lambda: deep("tuple")),
    "deep marks": (files.load_pickle, lambda: deep("mark")),
    "laughs": (files.load_options, lambda: pickle.dumps(laughs(), 2)),
    "laughing key": (files.load_pickle, lambda: b"}N\x85" + b"2\x86" * 60 + b"Ns."),
    "laughing dtype": (files.load_pickle, lambda: b"cnumpy\ndtype\n(N\x85" + b"2\x86" * 60
                       + b"tR."),
    "cyclic list": (files.load_pickle, lambda: b"\x80\x02]q\x00h\x00a."),
    "cyclic dict": (files.load_options, lambda: b"\x80\x02}q\x00U\x01ah\x00s."),
    "many lists": (files.load_pickle, lambda: b"]" * 4_100_000 + b"."),
    "missing memo": (files.load_pickle, lambda: b"\x80\x02h\x07."),
    "no stop": (files.load_pickle, lambda: b"\x80\x02}"),
    "no stack": (files.load_pickle, lambda: b"\x80\x02."),
    "no mark": (files.load_pickle, lambda: b"\x80\x02t."),
    "protocol 9": (files.load_pickle, lambda: b"\x80\x09N."),
    "not utf-8": (files.load_options, lambda: b"\x80\x02}U\x01aU\x01\xffs."),
    "bad escape": (files.load_pickle, lambda: b"S'\\x0'\n."),
    "class as data": (files.load_pickle, lambda: b"\x80\x02cnumpy\nndarray\n."),
    # dictionaries and options
    "options list": (files.load_options, lambda: pickle.dumps([1], 2)),
    "options int keys": (files.load_options, lambda: pickle.dumps({1: 2}, 2)),
    "words float": (files.load_dictionary, lambda: pickle.dumps({"a": 1.5}, 2)),
    "words negative": (files.load_dictionary, lambda: pickle.dumps({"a": -1}, 2)),
    "words bool": (files.load_dictionary, lambda: pickle.dumps({"a": True}, 2)),
    "words options": (files.load_dictionary, lambda: OPTIONS),
    "words empty": (files.load_dictionary, lambda: pickle.dumps({}, 2)),
    "words text": (files.load_dictionary, lambda: b"the\ncat\n"),
    # swapped and failed
    "empty": (files.load_pickle, lambda: b""),
    "empty npz": (arrays_of, lambda: b""),
    "empty vector": (files.load_vector, lambda: b""),
    "html npz": (arrays_of, lambda: HTML),
    "html pickle": (files.load_options, lambda: HTML),
    "html vgg": (files.load_vgg19, lambda: HTML),
    "lfs": (arrays_of, lambda: b"version https://git-lfs.github.com/spec/v1\n"),
    "pickle as npz": (arrays_of, lambda: OPTIONS),
    "npz as pickle": (files.load_options, lambda: WEIGHTS),
    "npy as npz": (arrays_of, lambda: npy_bytes(np.ones(3))),
    "npz as npy": (files.load_vector, lambda: WEIGHTS),
    "npz as vgg": (files.load_vgg19, lambda: WEIGHTS),
    "options as vgg": (files.load_vgg19, lambda: OPTIONS),
    "image as vgg": (files.load_vgg19, lambda: b"\xff\xd8\xff\xe0" * 9),
    # archives
    "truncated npz": (arrays_of, lambda: WEIGHTS[:-30]),
    "truncated npz 2": (arrays_of, lambda: WEIGHTS[:200]),
    "missing parameter": (arrays_of, lambda: npz_bytes(U=np.ones(3))),
    "wrong shape": (arrays_of, lambda: npz_bytes(W=np.ones((4, 3)))),
    "wrong ndim": (arrays_of, lambda: npz_bytes(W=np.ones(3))),
    "int weights": (arrays_of, lambda: npz_bytes(W=np.ones((3, 4), int))),
    "object weights": (arrays_of, lambda: zip_bytes("W.npy", npy_header((3, 4)) + OPTIONS)),
    "crc": (arrays_of, lambda: flipped(WEIGHTS, WEIGHTS.index(b"\0\0\x80\x3f") + 2)),
    "not npy inside": (arrays_of, lambda: zip_bytes("W.npy", b"hello")),
    "short member": (arrays_of, lambda: zip_bytes("W.npy", npy_header((3, 4), "<f4") + b"a" * 40)),
    "member of 10**12": (arrays_of, lambda: zip_bytes(
        "W.npy", npy_header((3, 10 ** 12), "<f4") + b"a" * 40)),
    "zip bomb": (arrays_of, lambda: zip_bytes(
        "W.npy", npy_header((3, 6_000_000), "<f4") + bytes(72_000_000), zipfile.ZIP_DEFLATED)),
    "lzma": (arrays_of, lambda: zip_bytes("W.npy", npy_bytes(np.ones((3, 4))), zipfile.ZIP_LZMA)),
    # arrays
    "truncated npy": (files.load_vector, lambda: npy_bytes(np.ones(9))[:-3]),
    "npy header cut": (files.load_vector, lambda: npy_bytes(np.ones(9))[:40]),
    "npy of 10**12": (files.load_vector, lambda: npy_header((10 ** 12,), "<f8") + b"a" * 8),
    "npy mapped 10**12": (lambda path: files.load_matrix(path, mmap=True),
                          lambda: npy_header((10 ** 12, 9), "<f4") + b"a" * 8),
    "npy huge product": (files.load_matrix, lambda: npy_header((1 << 47,) * 20, "<f4")),
    "npy evil header": (files.load_vector, lambda: npy_header(
        "__import__('os').system('touch MARKER')", "<f4")),
    "npy deep header": (files.load_vector, lambda: npy_header("(" * 20000, "<f4")),
    "npy long header": (files.load_vector, lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xffaaa"),
    "vector dim": (lambda path: files.load_vector(path, 5), lambda: npy_bytes(np.ones(9))),
    "vector matrix": (files.load_vector, lambda: npy_bytes(np.ones((2, 3)))),
    "vector nan": (files.load_vector, lambda: npy_bytes(np.array([1, np.nan]))),
    "vector overflow": (files.load_vector, lambda: npy_bytes(np.array([1e300]))),
    "vector int": (files.load_vector, lambda: npy_bytes(np.arange(3))),
    "vector objects": (files.load_vector, lambda: npy_bytes(np.array([None]))),
    "matrix vector": (files.load_matrix, lambda: npy_bytes(np.ones(3))),
    # tables
    "plain table": (table_of, lambda: npy_bytes(np.ones((3, 4)))),
    "table truncated": (table_of, lambda: many_rows()[:-5000]),
    "table too short": (table_of, lambda: object_table(ROWS).replace(b"(3,)", b"(4,)")),
    "table too long": (table_of, lambda: object_table(ROWS).replace(b"(3,)", b"(2,)")),
    "table of 10**12": (table_of, lambda: npy_header((10 ** 12,)) + b"\x80\x02]"),
    "table unequal": (table_of, lambda: object_table(
        ROWS + [np.ones(5, np.float32)])),
    "table of ints": (table_of, lambda: object_table([np.arange(3), np.arange(3) + 1])),
    "table of text": (table_of, lambda: object_table(["a", "b"])),
    "table evil": (table_of, lambda: npy_header((1,)) + named("os.system", "touch MARKER")),
    "table laughs": (table_of, lambda: npy_header((1,)) + b"cnumpy.core.multiarray\n_reconstruct\n"
                     b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01N\x85" + b"2\x86" * 60
                     + b"N\x89]tb."),
    "table doubled": (table_of, lambda: object_table(ROWS[:1] * 3)),
    # convnets
    "vgg evil": (files.load_vgg19, lambda: named("os.system", "touch MARKER")),
    "vgg few": (files.load_vgg19, lambda: pickle.dumps({"param values": [np.ones(3)]}, 2)),
    "caffe cut": (files.load_vgg19, lambda: b"\x0a\x05VGG\xff\xff\x12\xff\xff\xff\x7f\x00"),
    "caffe none": (files.load_vgg19, lambda: b"\x0a\x05VGG\xff\xff"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read, make = BAD[case]
    path = write(tmp_path, make())
    start = time.process_time()
    with pytest.raises(StorytellerError, match=r"(?s)bad\.bin") as caught:
        read(path)
    assert time.process_time() - start < 20     # none goes on for ever
    assert len(str(caught.value)) < 700
    assert os.listdir(tmp_path) == ["bad.bin"]      # nothing was executed, nothing left behind


READERS = [files.load_pickle, files.load_options, files.load_dictionary, arrays_of,
           files.array_names, files.load_vector, files.load_matrix, files.is_object_table,
           files.table_shape, table_of, files.load_vgg19]


@pytest.mark.parametrize("read", READERS)
def test_nothing_to_read(read, tmp_path):
    with pytest.raises(StorytellerError, match="nobody.bin"):
        read(tmp_path / "nobody.bin")
    with pytest.raises(StorytellerError, match="folder"):
        read(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(StorytellerError, match="pipe"):
            read(tmp_path / "pipe")
    with pytest.raises(StorytellerError):
        read("a\0b")


@pytest.mark.filterwarnings("ignore:.*invalid.*escape:DeprecationWarning")
def test_damage_anywhere_is_one_error(tmp_path):
    """Cut or change a file at any place: the result is a value or the one exception."""
    table = object_table([np.full(3, i, np.float32) for i in range(4)])
    samples = [(files.load_pickle, (GOLDENS / "skipthoughts/bi_skip.npz.pkl").read_bytes()),
               (files.load_pickle, pickle.dumps({"a": np.arange(3.0), "b": {1, 2}}, 4)),
               (arrays_of, WEIGHTS), (files.load_vector, npy_bytes(np.ones(4))),
               (table_of, table)]
    random = np.random.RandomState(1)
    for read, content in samples:
        for i in range(150):
            at = random.randint(len(content))
            changed = (content[:at] if i % 3 == 0 else
                       content[:at] + bytes([random.randint(256)]) + content[at + 1:])
            try:
                read(write(tmp_path, changed))
            except StorytellerError as error:
                assert "bad.bin" in str(error)


# ------------------------------------------------------------------------------ convnets

def mini_shapes():
    widths = {64: 2, 128: 3, 256: 4, 512: 5, 3: 3}
    shapes = {name: (widths[shape[0]], widths[shape[1]], 3, 3)
              for name, shape in files.VGG19_SHAPES.items() if len(shape) == 4}
    shapes.update(fc6=(5 * 2 * 2, 7), fc7=(7, 6), fc8=(6, 4))
    return shapes


MINI = mini_shapes()


def mini_params():
    random = np.random.RandomState(3)
    params = []
    for shape in MINI.values():
        params.append(random.randn(*shape).astype(np.float32))
        params.append(random.randn(shape[0] if len(shape) == 4 else shape[1]).astype(np.float32))
    return params


def layers():
    params = mini_params()
    return [(name, params[2 * i], params[2 * i + 1]) for i, name in enumerate(MINI)]


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def caffe(version, packed=True, double=False):
    def blob(array, legacy):
        if version == 1:
            dims = (1,) * (4 - array.ndim) + array.shape
            shape = b"".join(field(i + 1, n) for i, n in enumerate(dims))
        else:
            dims = b"".join(map(varint, array.shape))
            shape = field(7, field(1, dims) if packed else
                          b"".join(field(1, n) for n in array.shape))
        if double:
            return shape + field(8, array.astype("<f8").tobytes())
        if packed:
            return shape + field(5, array.astype("<f4").tobytes())
        return b"".join(b"\x2d" + struct.pack("<f", x) for x in array.ravel()) + shape

    out = field(1, b"VGG_ILSVRC_19_layer")
    name_field, blobs_field, layer_field = (4, 6, 2) if version == 1 else (1, 7, 100)
    for name, W, b in layers():
        if W.ndim == 2:
            W = W.T
        out += field(layer_field, field(name_field, name.encode())
                     + field(blobs_field, blob(W, True)) + field(blobs_field, blob(b, True)))
        out += field(layer_field, field(name_field, b"relu" + name.encode()))
    return out


class _Pid:
    def __init__(self, key, array):
        self.key, self.array = key, array


class _Named:
    """Stands for a global that need not exist here."""

    def __init__(self, name):
        self.module, self.name = name.rsplit(".", 1)


def pack(value):
    """A small pickler (protocol 2) that can name anything."""
    if isinstance(value, _Named):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, _Pid):
        pid = ("storage", _Named("torch.FloatStorage"), value.key, "cpu", value.array.size)
        return pack(pid if value.key.isdigit() and len(value.key) < 5 else (*pid, None)) + b"Q"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(pack, value)) + b"t"
    if isinstance(value, dict):
        return (b"ccollections\nOrderedDict\n)R("
                + b"".join(pack(k) + pack(v) for k, v in value.items()) + b"u")
    return pickle.dumps(value, 2)[2:-1]


def torch_state(key_width):
    state, arrays = b"", {}
    for prefix, (name, W, b) in zip(TORCH_LAYERS.values(), layers()):
        W = W.T if W.ndim == 2 else W[:, ::-1] if name == "conv1_1" else W
        for part, array in (("weight", W), ("bias", b)):
            key = str(len(arrays)).zfill(key_width)
            shape, offset = array.shape, 0
            strides = tuple(int(np.prod(shape[i + 1:])) for i in range(len(shape)))
            flat = np.ascontiguousarray(array).ravel()
            if name == "conv3_2":       # a view of a larger storage
                flat, offset = np.concatenate([np.zeros(5, np.float32), flat]), 5
            if name == "fc7" and part == "weight":
                flat, strides = np.ascontiguousarray(array.T).ravel(), (1, shape[0])
            arrays[key] = flat.astype("<f4")
            state += (pack(f"{prefix}.{part}") + b"ctorch._utils\n_rebuild_tensor_v2\n"
                      + pack((_Pid(key, flat), offset, shape, strides, False, {})) + b"R")
    return (b"\x80\x02ccollections\nOrderedDict\n)R(" + state + b"u"
            + b"}U\x09_metadata}sb.", arrays)


def torch_legacy():
    state, arrays = torch_state(8)
    out = b"".join(pickle.dumps(x, 2) for x in (0x1950a86a20f9469cfc6c, 1001, {
        "protocol_version": 1001, "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4}}))
    out += state + pickle.dumps(list(arrays), 2)
    return out + b"".join(struct.pack("<q", a.size) + a.tobytes() for a in arrays.values())


def torch_zip():
    state, arrays = torch_state(1)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("vgg19/data.pkl", state)
        archive.writestr("vgg19/byteorder", b"little")
        for key, array in arrays.items():
            archive.writestr("vgg19/data/" + key, array.tobytes())
        archive.writestr("vgg19/version", b"3\n")
    return file.getvalue()


def lasagne(tmp_path):
    save_vgg19_pickle(tmp_path / "lasagne.pkl", mini_params())
    return (tmp_path / "lasagne.pkl").read_bytes()


def check_params(path, source):
    params, spec = files.load_vgg19(path, MINI)
    assert spec["source"] == source and len(params) == 38
    for found, expected in zip(params, mini_params()):
        assert found.dtype == np.float32 and found.flags.c_contiguous and found.flags.aligned
        assert np.array_equal(found, expected)
    return spec


def test_table_of_shapes():
    shapes = files.VGG19_SHAPES
    assert len(shapes) == 19
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 143_652_544
    assert shapes["conv5_4"] == (512, 512, 3, 3) and shapes["fc6"] == (25088, 4096)


def test_lasagne(tmp_path):
    content = lasagne(tmp_path)
    spec = check_params(tmp_path / "lasagne.pkl", "lasagne")
    assert spec["scale"].tolist() == [1, 1, 1] and spec["shift"].tolist() == [0, 0, 0]
    # Python's own reader agrees that this is a pickle of Python 2.
    values = pickle.loads(content, encoding="latin1")["param values"]
    assert all(np.array_equal(a, b) for a, b in zip(values, mini_params()))
    for protocol in (0, 2, 4):
        path = write(tmp_path, pickle.dumps({"param values": mini_params()}, protocol), "p.pkl")
        check_params(path, "lasagne")


def test_caffe(tmp_path):
    check_params(write(tmp_path, caffe(1)), "caffe")


@pytest.mark.parametrize("version, packed, double", [(2, True, False), (1, False, False), (1, True, True)])
def test_caffe_of_other_layouts_is_refused(tmp_path, version, packed, double):
    """Only one was ever published for this network."""
    with pytest.raises(StorytellerError, match="bad.bin"):
        files.load_vgg19(write(tmp_path, caffe(version, packed, double)), MINI)


@pytest.mark.parametrize("make", [torch_zip, torch_legacy])
def test_torchvision(tmp_path, make):
    spec = check_params(write(tmp_path, make()), "torchvision")
    im = np.array([10.0, -20.0, 30.0])
    rgb = (im + [103.939, 116.779, 123.68])[::-1] / 255
    expected = ((rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])[::-1]
    assert np.allclose(im * spec["scale"] + spec["shift"], expected, atol=1e-6)


def keras(path, top=True, nested=False):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if nested else file
        for name, W, b in layers():
            if not top and name.startswith("fc"):
                continue
            group = root.create_group(KERAS_LAYERS[name])
            if nested:
                group = group.create_group(KERAS_LAYERS[name])
            if W.ndim == 4:
                W = W.transpose(2, 3, 1, 0)
            elif name == "fc6":
                W = W.reshape(5, 2, 2, 7).transpose(1, 2, 0, 3).reshape(20, 7)
            suffix = ("kernel:0", "bias:0") if nested else (
                KERAS_LAYERS[name] + "_W_1:0", KERAS_LAYERS[name] + "_b_1:0")
            group[suffix[0]], group[suffix[1]] = W, b
    return path


@pytest.mark.parametrize("nested", [False, True])
def test_keras(tmp_path, nested):
    check_params(keras(tmp_path / "vgg19.h5", nested=nested), "keras")


def test_keras_without_top(tmp_path):
    path = keras(tmp_path / "vgg19_notop.h5", top=False)
    with pytest.raises(StorytellerError, match="vgg19_notop.h5"):
        files.load_vgg19(path, MINI)


def test_keras_links_lead_nowhere(tmp_path):
    h5py = pytest.importorskip("h5py")
    keras(tmp_path / "other.h5")
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        for name in ("block1_conv1", "block1_conv2"):
            file[name] = h5py.ExternalLink("other.h5", name)
    with pytest.raises(StorytellerError, match="bad.h5"):
        files.load_vgg19(tmp_path / "bad.h5", MINI)


def test_keras_without_h5py(tmp_path, monkeypatch):
    path = keras(tmp_path / "vgg19.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(StorytellerError, match=r"pip install h5py"):
        files.load_vgg19(path, MINI)


@pytest.mark.parametrize("form", ["lasagne", "caffe", "torch_zip", "torch_legacy", "keras"])
def test_bad_convnets(tmp_path, form):
    content = {"lasagne": lambda: lasagne(tmp_path), "caffe": lambda: caffe(1),
               "torch_zip": torch_zip, "torch_legacy": torch_legacy,
               "keras": lambda: keras(tmp_path / "k.h5").read_bytes()}[form]()
    with pytest.raises(StorytellerError, match="bad.bin"):
        files.load_vgg19(write(tmp_path, content))        # the shapes of the real network
    for part in (0.02, 0.3, 0.6, 0.9, 0.999):
        with pytest.raises(StorytellerError, match="bad.bin"):
            files.load_vgg19(write(tmp_path, content[:int(part * len(content))]), MINI)
    random = np.random.RandomState(2)
    for _ in range(60):
        at = random.randint(len(content))
        changed = content[:at] + bytes([random.randint(256)]) + content[at + 1:]
        try:
            files.load_vgg19(write(tmp_path, changed), MINI)
        except StorytellerError as error:
            assert "bad.bin" in str(error)


def test_foreign_global_in_torch_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = zip_bytes("vgg19/data.pkl", b"\x80\x02" + named("os.system", "touch MARKER"))
    with pytest.raises(StorytellerError, match="bad.bin"):
        files.load_vgg19(write(tmp_path, evil))
    legacy = torch_legacy().replace(b"ctorch._utils\n_rebuild_tensor_v2", b"ctorch._utils\nx", 1)
    with pytest.raises(StorytellerError, match="bad.bin"):
        files.load_vgg19(write(tmp_path, legacy), MINI)
    assert os.listdir(tmp_path) == ["bad.bin"]


@pytest.mark.parametrize("odd", [{"shapes": 3}, {"shapes": [(1, 2)]}, {"shapes": "a"}, {"dtype": "\udcff"},
                                 {"dtype": "no such"}])
def test_arguments_of_load_arrays(tmp_path, odd):
    files.save_arrays(tmp_path / "model.npz", W=np.zeros((2, 2), np.float32))
    with pytest.raises(StorytellerError, match=next(iter(odd))):
        files.load_arrays(tmp_path / "model.npz", ["W"], **odd)
