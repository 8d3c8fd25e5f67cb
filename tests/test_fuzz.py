"""Damaged and hostile files of every kind: each is read or refused by name, quickly and in little memory.

A few mutations of every kind of file, the same at every run; the search for further ones takes
thousands.  The bombs are small files made to cost much; they are read in a process of their own,
whose memory is watched.
"""
from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storyteller import StorytellerError, cache, config, decoder, embedding, evaluation, files, skipthoughts, text, vgg
from storyteller.training import corpus, vocabulary
from tests import test_formats as formats

GOLDENS = Path(__file__).parent / "goldens"
STORY, SKIP = GOLDENS / "story", GOLDENS / "skipthoughts"
CASES = 25      # of each kind
NUMBERS = (0, 1, 127, 255, 0x7fff, 0xffff, 0x7fffffff, 0xffffffff, 1 << 40, (1 << 63) - 1)
OPCODES = b"(.012FIJKLMNPQRSTUVXabcde}ghijl]oprqst)uGBC" + bytes(range(0x80, 0x99))
WORDS = (b"cos\nsystem\n", b"cbuiltins\neval\n", b"\x8c\x02os\x8c\x06system\x93", b"ccollections\nOrderedDict\n)R",
         b"I999999999999\n", b"\x85R", b"paths", b"**", b"f'{", b"__import__('os').system('id')", b"lambda: 0",
         b"10**9")


def mutated(data, rng):
    """One to three changes anywhere, more often near the start, where headers are."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(min(len(out), rng.choice((64, 300, 2000, len(out) + 1))) + 1)
        change = rng.randrange(8)
        if change == 0 and out:
            out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
        elif change == 1:
            out[at:at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))
        elif change == 2:
            del out[rng.randrange(len(out) + 1):]
        elif change == 3:
            del out[at:at + rng.choice((1, 4, 16, 256))]
        elif change == 4:
            out[at:at] = out[at:at + rng.choice((1, 16, 256, 4096))]
        elif change == 5:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
            out[at:at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif change == 6:
            out[at:at] = bytes([rng.choice(OPCODES)])
        else:
            out[at:at] = rng.choice(WORDS)
    return bytes(out)


def in_a_member(data, rng):
    """A sound archive around one damaged member."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        hit = rng.choice(source.namelist())
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, mutated(content, rng) if name == hit else content, rng.choice((0, 0, 8, 12)))
    return out.getvalue()


def changed(data, rng):
    return in_a_member(data, rng) if data[:2] == b"PK" and rng.random() < .6 else mutated(data, rng)


# -- kinds: what to damage, and how it is read -------------------------------------------------

def seeds_of(*patterns, most=60000):
    found = [path.read_bytes() for pattern in patterns for path in sorted(GOLDENS.glob(pattern))]
    return [data[:most] for data in found]


def pickles():
    values = ({"dim": 5, "x": [1, 2.5, None, True, ("a", b"b")], "é": {1, 2}},
              OrderedDict((f"w{i}", i) for i in range(40)),
              {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.float64(2),
               "o": np.array(["x", None], object)})
    return [pickle.dumps(value, protocol) for value in values for protocol in range(6)] + seeds_of("story/*.pkl")


def read_pickle(path, rng):
    read = rng.choice((files.load_pickle, files.load_options, files.load_dictionary, vocabulary.load_counts,
                       lambda path: files.load_pickle(path, strict=False)))
    read(path)


def npzs():
    plain, packed = io.BytesIO(), io.BytesIO()
    for save, out in ((np.savez, plain), (np.savez_compressed, packed)):
        save(out, Wemb=np.ones((5, 3), np.float32), ff_logit_b=np.zeros(5), big=np.zeros((2, 2), ">f4"), i=np.arange(3))
    return [plain.getvalue(), packed.getvalue()]


def read_npz(path, rng):
    files.load_arrays(path, list(files.array_names(path))[:20], dtype=rng.choice((np.float32, np.float64)))


def read_npy(path, rng):
    read = rng.choice((files.load_vector, files.load_matrix, files.is_object_table, files.table_shape, files.describe,
                       lambda path: files.load_matrix(path, mmap=True)[:1].sum()))
    read(path)


def tables():
    rows = [np.arange(4, dtype=np.float32) + i for i in range(20)]
    return [formats.object_table(rows, protocol) for protocol in range(6)] + seeds_of("object_tables/*.npy")


def read_model(path, rng):
    folder = path.parent
    family = rng.choice((
        (STORY, ["decoder.npz", "decoder.npz.pkl", "decoder_dictionary.pkl"],
         lambda: decoder.load_model(folder / "decoder.npz", folder / "decoder_dictionary.pkl")),
        (STORY, ["coco_embedding.npz", "coco_embedding.npz.pkl", "coco_embedding.npz.dictionary.pkl"],
         lambda: embedding.load_model(folder / "coco_embedding.npz")),
        (SKIP, ["uni_skip.npz", "uni_skip.npz.pkl", "bi_skip.npz", "bi_skip.npz.pkl", "dictionary.txt", "utable.npy",
                "btable.npy"], lambda: skipthoughts.load_model(folder))))
    source, names, load = family
    for name in names:
        (folder / name).write_bytes((source / name).read_bytes())
    hit = folder / rng.choice(names)
    hit.write_bytes(changed(hit.read_bytes(), rng))
    load()


def pictures():
    out = []
    image = Image.fromarray(np.arange(70 * 50 * 3, dtype=np.uint8).reshape(50, 70, 3))
    for kind, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P"), ("WEBP", "RGB"),
                       ("TIFF", "RGB"), ("BMP", "RGB")):
        data = io.BytesIO()
        image.convert(mode).save(data, kind)
        out.append(data.getvalue())
    return out


def read_picture(path, rng):
    raw, im = vgg.load_image(path)
    assert raw.shape == (224, 224, 3) and np.isfinite(im).all()


def texts():
    prose = (SKIP / "sentences.txt").read_bytes()[:3000]
    return [prose, (SKIP / "dictionary.txt").read_bytes()[:2000] + b"\nUNK\n", gzip.compress(prose),
            bz2.compress(prose), lzma.compress(prose), prose.decode().encode("utf-16"), prose.replace(b"\n", b"\r\n")]


def read_text(path, rng):
    read = rng.choice((text.read_captions, text.load_vocabulary, text.read_lines,
                       lambda path: list(corpus.paragraphs(path)),
                       lambda path: list(corpus.passages([str(path)], 5, 40, tokenized=True))))
    read(path)


SETTINGS = [b"FLAG_CPU_MODE = True\nimport os\npaths = dict()\npaths['vgg'] = 'a' + 'b'\n"
            b"paths['captions'] = os.path.join('x', f'{paths[\"vgg\"]}')\ntelling = {'candidates': 3, 'prose': True}\n"]


def read_settings(path, rng):
    config.load(path).needed()


def cached():
    data = io.BytesIO()
    files.save_npy_header(data, (10, 4))
    return [data.getvalue() + np.arange(40, dtype="<f4").tobytes()]


def read_cached(path, rng):
    """An entry of the cache, or one half written, is made again where it is damaged."""
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)
    source, folder = path.parent / "source", path.parent / "cache"
    source.write_bytes(b"source")
    os.environ["STORYTELLER_CACHE"] = str(folder)

    def entry():
        return cache.cached_rows("kind", source, "key", (10, 4), lambda file, start: file.write(rows[start:].tobytes()))

    entry()
    for made in folder.rglob("*.npy"):
        content = changed(made.read_bytes(), rng)
        made.unlink()
        made.write_bytes(content)
    assert np.array_equal(entry(), rows)
    for made in folder.rglob("*.npy"):
        made.unlink()


def read_corpus(path, rng):
    corpus.EncodedCorpus.build(path.parent / "c", ["a b c", "b c", "a"], {"a": 2, "b": 3, "c": 4}, verbose=False)
    hit = path.parent / rng.choice(("c.tokens.npy", "c.offsets.npy"))
    hit.write_bytes(changed(hit.read_bytes(), rng))
    encoded = corpus.EncodedCorpus(path.parent / "c")
    assert len([encoded[i] for i in range(len(encoded))]) == len(encoded.lengths)


TESTS = [b"DESC:manner How did serfdom develop ?\nENTY:cremat What films ?\n",
         b"Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t2\t3\tA b c .\tD e f .\n0\t2\t3\tA b\tC d\n",
         b"pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n1\tA group\tB group\t4.5\t"
         b"NEUTRAL\n"]


def read_test(path, rng):
    read = rng.choice((evaluation.load_trec, evaluation.load_msrp, evaluation.load_sick,
                       lambda path: evaluation.load_binary(path, path)))
    read(path)


def vgg19(path, rng):
    files.load_vgg19(path, formats.MINI)


KINDS = {
    "pickle": (pickles, read_pickle), "npz": (npzs, read_npz),
    "npy": (lambda: seeds_of("story/*.npy", "skipthoughts/*.npy", most=20000), read_npy),
    "object-npy": (tables, lambda path, rng: files.convert_object_table(path, io.BytesIO())),
    "model": (lambda: [b""], read_model), "caffe": (lambda: [formats.caffe(1), formats.caffe(2)], vgg19),
    "torch-zip": (lambda: [formats.torch_zip()], vgg19),
    "torch-legacy": (lambda: [formats.torch_legacy()], lambda path, rng: files.load_torch_state(path)),
    "lasagne": (lambda: [formats.lasagne(Path(os.environ["FUZZ_FOLDER"]))], vgg19),
    "keras": (lambda: [formats.keras(Path(os.environ["FUZZ_FOLDER"]) / "k.h5").read_bytes()], vgg19),
    "image": (pictures, read_picture), "text": (texts, read_text), "config": (lambda: SETTINGS, read_settings),
    "cache": (cached, read_cached), "corpus": (lambda: [b""], read_corpus), "eval": (lambda: TESTS, read_test),
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("FUZZ_FOLDER", str(tmp_path))
    monkeypatch.setenv("STORYTELLER_CACHE", str(tmp_path / "cache"))
    make, read = KINDS[kind]
    seeds = make()
    path = tmp_path / "damaged.bin"
    for case in range(CASES):
        rng = random.Random(f"{kind} {case}")
        path.write_bytes(changed(rng.choice(seeds), rng))
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # of NumPy's and Pillow's about what is damaged
            try:
                read(path, rng)
            except StorytellerError as error:
                assert str(tmp_path) in str(error) and len(str(error)) < 2000, f"{kind}, case {case}"
            except Exception as error:
                raise AssertionError(f"{kind}, case {case}: {error!r}") from error
        assert time.process_time() - started < 10, f"{kind}, case {case}"


# -- bombs -------------------------------------------------------------------------------------

def torch(state, storage=b"\0\0\0\0"):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}" + state + b".")
        archive.writestr("m/data/0", storage)
    return data.getvalue()


def tensors(shape, stride, size, count=1):
    one = (b"ctorch._utils\n_rebuild_tensor_v2\n"
           + formats.pack((formats._Pid("0", np.zeros(size, np.float32)), 0, shape, stride, False, {})) + b"R")
    return b"".join(formats.pack(f"w{i}") + one + b"s" for i in range(count))


def table(body, rows=3):
    return formats.npy_header((rows,)) + body


def convert(path):
    files.convert_object_table(path, io.BytesIO())


def in_layer(blob):
    return formats.field(2, formats.field(4, b"conv1_1") + formats.field(6, blob) + formats.field(6, blob))


M = 1 << 20
FLOATS = b"cnumpy\ndtype\nU\x02f4\x85Rq\x00cnumpy.core.multiarray\n"
BOMBS = {
    "empty sets": (files.load_pickle, lambda: b"\x80\x04" + b"\x8f" * (3 * M) + b"."),
    "memoize": (files.load_pickle, lambda: b"\x80\x04N" + b"\x94" * (8 * M) + b"."),
    "dicts of one": (files.load_pickle, lambda: b"}NNs" * (2 * M) + b"."),
    "ordered dicts": (files.load_pickle, lambda: b"ccollections\nOrderedDict\nq\x00" + b"h\x00)R" * (2 * M) + b"."),
    "empty arrays": (files.load_pickle, lambda: b"cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nK\x00\x85"
                     b"U\x01b\x87q\x03" + b"h\x00h\x03R" * (2 * M) + b"."),
    "many numbers of one list": (files.load_pickle, lambda: b"cbuiltins\nset\nq\x00](" + b"".join(
        b"M" + struct.pack("<H", i) for i in range(50000)) + b"eq\x01" + b"h\x00h\x01\x85R" * 5000 + b"."),
    "many arrays of one string": (files.load_pickle, lambda: FLOATS + b"_frombuffer\nq\x01(X\x00\x00\x10\x00" + b"a" * M
                                  + b"h\x00J\x00\x00\x04\x00\x85U\x01Ctq\x03" + b"h\x01h\x03R" * 100000 + b"."),
    "many encodings of one string": (files.load_pickle, lambda: b"c_codecs\nencode\nq\x00X\x00\x00\x10\x00" + b"a" * M
                                     + b"X\x06\x00\x00\x00latin1\x86q\x02" + b"h\x00h\x02R" * 100000 + b"."),
    "doubled tuples": (files.load_pickle, lambda: b"N\x85" + b"2\x86" * 90 + b"."),
    "doubled tuples, deep": (files.load_pickle, lambda: b"N\x85" + b"2\x86" * 100000 + b"."),
    "digits": (files.load_pickle, lambda: b"\x80\x02L" + b"9" * (4 * M) + b"L\n."),
    "digits of an index": (files.load_pickle, lambda: b"\x80\x02Np" + b"9" * (4 * M) + b"\n."),
    "colliding keys": (files.load_pickle, lambda: b"\x80\x02}(" + b"".join(
        b"\x8a\x0a" + (i * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for i in range(100000)) + b"u."),
    "announced bytearray": (files.load_pickle, lambda: b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a."),
    "announced bytes": (files.load_pickle, lambda: b"\x80\x05\x8e" + struct.pack("<Q", 3 << 30) + b"a."),
    "stride of 0": (files.load_torch_state, lambda: torch(tensors((1 << 15, 1 << 15), (0, 0), 1))),
    "overlapping rows": (files.load_torch_state, lambda: torch(
        tensors((1 << 15, 1 << 15), (1, 1), 1 << 17), bytes(4 << 17))),
    "many views": (files.load_torch_state, lambda: torch(tensors((M,), (1,), M, 2000), bytes(4 * M))),
    "stride of 0, VGG-19": (vgg19, lambda: torch(
        formats.pack("features.0.weight") + tensors((2, 3, 3, 3), (0, 0, 0, 0), 1)[len(formats.pack("w0")):])),
    "sets in a table": (convert, lambda: table(b"\x8f" * (4 * M) + b".")),
    "memo of a table": (convert, lambda: table(b"N" + b"\x94" * (8 * M) + b".")),
    "tuples between rows": (convert, lambda: table((b"N\x85" * 10 + pickle.dumps(
        np.ones(4, np.float32), 2)[2:-1]) * 5000 + b".", 5000)),
    "blobs without end": (vgg19, lambda: formats.field(2, formats.field(4, b"conv1_1") + b"\x32\x00" * (M // 2))),
    "layers without end": (vgg19, lambda: b"\x12\x00" * (M // 2)),
    "numbers in pieces": (vgg19, lambda: in_layer(b"\x2d\0\0\0\0\x08\x01" * (M // 14))),
    "numbers in fields": (vgg19, lambda: in_layer(formats.field(5, b"\0\0\0\0") * (M // 12))),
    "nested header": (files.load_vector, lambda: formats.npy_header("(" * 9000, "<f4")),
    "signs in a header": (files.load_vector, lambda: formats.npy_header("(" + "-" * 9000 + "1,)", "<f4")),
    "announced header": (files.load_vector, lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 2000),
    "deflated zeros": (lambda path: files.load_arrays(path, ["W"]), lambda: formats.zip_bytes(
        "W.npy", formats.npy_header((3, 16_000_000), "<f4") + bytes(192_000_000), zipfile.ZIP_DEFLATED)),
}


def highest_memory():
    """Megabytes, since the last reset of the mark."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def read_bombs(folder):
    """Read all, and print a line for each that costs too much or is not refused by name."""
    path = Path(folder) / "bomb.bin"
    for name, (read, make) in BOMBS.items():
        path.write_bytes(make())
        with open("/proc/self/clear_refs", "w") as marks:
            marks.write("5")
        before, started, outcome = highest_memory(), time.process_time(), "was read"
        try:
            read(path, None) if read is vgg19 else read(path)
        except StorytellerError as error:
            outcome = "" if str(path) in str(error) else f"unnamed: {error}"
        except BaseException as error:
            outcome = repr(error)
        seconds, memory = time.process_time() - started, highest_memory() - before
        if outcome or seconds > 10 or memory > 400:
            print(f"{name}: {outcome} {seconds:.1f} s, {memory:.0f} MB", flush=True)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's counts of memory")
def test_bombs(tmp_path):
    code = "import sys; from tests import test_fuzz; test_fuzz.read_bombs(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300,
                          cwd=Path(__file__).parents[1], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
