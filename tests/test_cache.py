"""The cache: made once for every content, never wrong, never in the way; what lists and clears it."""
from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from storyteller import StorytellerError, cache, cli, decoder, embedding, files, skipthoughts, text, vgg

GOLDENS = Path(__file__).parent / "goldens"
JOINT, OBJECTS = GOLDENS / "embedding", GOLDENS / "object_tables"
ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


class Writer:
    """Writes ROWS a row at a time; remembers where it began."""

    def __init__(self, fails_at=None):
        self.starts, self.fails_at = [], fails_at

    def __call__(self, file, start):
        self.starts.append(start)
        for i in range(start, len(ROWS)):
            if i == self.fails_at:
                raise KeyboardInterrupt
            file.write(ROWS[i].tobytes())


def rows(write, key="0123", resumable=True):
    found = cache.cached_rows("kind", "SOURCE", key, ROWS.shape, write, resumable)
    np.testing.assert_array_equal(found, ROWS)
    return found


def test_made_once():
    write = Writer()
    for _ in range(3):
        assert isinstance(rows(write), np.memmap)
    assert write.starts == [0]


class TestFingerprint:
    def test_contents_count_and_names_do_not(self, tmp_path):
        a, b = tmp_path / "a", tmp_path / "b"
        a.write_bytes(b"content")
        b.write_bytes(b"content")
        assert cache.fingerprint(a) == cache.fingerprint(str(b))
        b.write_bytes(b"Content")
        assert cache.fingerprint(a) != cache.fingerprint(b)

    def test_kinds_are_told_apart(self, tmp_path):
        (tmp_path / "a").write_bytes(b"ab")
        found = {cache.fingerprint(*sources) for sources in (
            [tmp_path / "a"], [["ab"]], [["a", "b"]], [["a"], ["b"]], [["a\nb"]], [["", "ab"]], [[]], [],
            [np.zeros(2)], [np.zeros((1, 2))], [np.zeros(2, np.float32)], [np.zeros(4, np.float32)], [np.zeros(0)])}
        assert len(found) == 13
        assert cache.fingerprint(iter(["\ud800", "b"])) == cache.fingerprint(["\ud800", "b"])
        assert cache.fingerprint(np.eye(3)[:, ::2]) == cache.fingerprint(np.eye(3)[:, ::2].copy())

    def test_large_files_are_read_once_and_again_when_replaced(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cache, "_LARGE", 10)
        path, reads = tmp_path / "large", []
        path.write_bytes(bytes(100))
        real = cache._checksum
        monkeypatch.setattr(cache, "_checksum", lambda *args: reads.append(1) or real(*args))
        first = cache.fingerprint(path)
        assert cache.fingerprint(path) == first and len(reads) == 1
        status = path.stat()
        path.write_bytes(bytes(99) + b"1")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert cache.fingerprint(path) != first and len(reads) == 2


class TestDamage:
    @pytest.mark.parametrize("damage", [
        lambda data: data[:len(data) // 2], lambda data: b"", lambda data: data[:9] + bytes([data[9] ^ 1]) + data[10:],
        lambda data: data[:12] + bytes([data[12] ^ 16]) + data[13:], lambda data: data[:140] + b"x" + data[141:],
        lambda data: data[:128] + bytes(len(data) - 128), lambda data: data[:-1] + b"?", lambda data: data + b"\0",
        lambda data: data[:-60] + b"y" + data[-59:]])
    def test_damaged_afterwards(self, folder, damage):
        rows(Writer())
        (entry,) = folder.glob("*.npy")
        status = entry.stat()
        entry.write_bytes(damage(entry.read_bytes()))
        os.utime(entry, ns=(status.st_atime_ns, status.st_mtime_ns))
        write = Writer()
        rows(write)
        rows(write)
        assert write.starts == [0]

    def test_is_told_once(self, folder, caplog):
        rows(Writer())
        (folder / "kind-0123.npy").write_bytes(b"x")
        rows(Writer())
        assert [record.getMessage().split(" ", 1)[1] for record in caplog.records] == ["is damaged: it is made again"]

    @pytest.mark.parametrize("memory", [b"", b"[]", b"{}", b"\xff", b'{"a": 1}', b"[" * 100_000])
    def test_damaged_memory_of_checksums(self, folder, memory):
        write = Writer()
        rows(write)
        (folder / "checksums.json").write_bytes(memory)
        rows(write)
        assert write.starts == [0]

    def test_another_shape(self):
        rows(Writer())
        found = cache.cached_rows("kind", "SOURCE", "0123", (1, 4), lambda file, start: file.write(bytes(16)))
        assert found.shape == (1, 4)


class TestUnfinished:
    def test_goes_on(self):
        with pytest.raises(KeyboardInterrupt):
            rows(Writer(fails_at=6))
        write = Writer()
        rows(write)
        assert write.starts == [6]

    @pytest.mark.parametrize("where", [3, 130, 190])
    def test_damaged_meanwhile(self, folder, where):
        with pytest.raises(KeyboardInterrupt):
            rows(Writer(fails_at=6))
        (part,) = folder.glob("*.part")
        data = bytearray(part.read_bytes())
        data[where] ^= 1
        part.write_bytes(data)
        write = Writer()
        rows(write)
        assert write.starts == [0]

    def test_what_ran_on_behind_the_checksum_is_written_again(self, folder):
        with pytest.raises(KeyboardInterrupt):
            rows(Writer(fails_at=6))
        (part,) = folder.glob("*.part")
        part.write_bytes(part.read_bytes() + b"123")
        rows(Writer())

    def test_not_resumable(self, folder):
        with pytest.raises(KeyboardInterrupt):
            rows(Writer(fails_at=6), resumable=False)
        assert not list(folder.glob("*.part*"))

    def test_old_ones_go(self, folder):
        with pytest.raises(KeyboardInterrupt):
            rows(Writer(fails_at=6), "aa")
        with pytest.raises(KeyboardInterrupt):
            rows(Writer(fails_at=6), "bb")
        for path in folder.glob("*aa*"):
            os.utime(path, (1, 1))
        rows(Writer())
        assert not list(folder.glob("*aa*")) and list(folder.glob("*bb*.part"))

    @pytest.mark.skipif(os.name == "nt", reason="links need rights there")
    @pytest.mark.parametrize("ending", [".part", ".part.sum", ".lock"])
    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_links_are_not_followed(self, folder, tmp_path, ending, link):
        precious = tmp_path / "precious"
        precious.write_text("do not overwrite")
        folder.mkdir()
        link(precious, folder / f"kind-0123.npy{ending}")
        rows(Writer())
        assert precious.read_text() == "do not overwrite"

    @pytest.mark.parametrize("ours", [True, False])
    def test_nothing_is_left_on_a_full_disk(self, folder, ours, monkeypatch):
        if ours:    # noticed before the first row
            monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=0))

        def write(file, start):
            if isinstance(file, cache._Part):
                raise OSError(errno.ENOSPC, "No space left on device")
            file.write(ROWS.tobytes())
        rows(write)
        assert not list(folder.iterdir())

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
    def test_a_pipe_does_not_hang(self, folder):
        folder.mkdir()
        os.mkfifo(folder / "kind-0123.npy.part")
        rows(Writer())


class TestOthers:
    def test_threads_make_one(self):
        write = Writer()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: rows(write), range(8)))
        assert write.starts == [0]

    def test_a_process_that_hangs_is_not_waited_for(self, folder, monkeypatch, caplog):
        from filelock import FileLock
        monkeypatch.setattr(cache, "_PATIENCE", 0.1)
        folder.mkdir()
        with FileLock(folder / "kind-0123.npy.lock"):
            found = rows(Writer())
        assert not isinstance(found, np.memmap) and "kind-0123.npy.lock" in caplog.text

    def test_the_oldest_go_but_none_of_another_kind(self, folder):
        cache.cached_rows("other", "SOURCE", "0", ROWS.shape, Writer())
        for i in range(cache.KEPT + 2):
            rows(Writer(), f"{i:02d}")
            os.utime(folder / f"kind-{i:02d}.npy", (4e9 + i, 4e9 + i))
        found = sorted(path.name for path in folder.glob("*.npy"))
        assert found == [f"kind-{i:02d}.npy" for i in range(2, cache.KEPT + 2)] + ["other-0.npy"]


class TestFolder:
    def test_home(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        monkeypatch.setenv(cache.VARIABLE, os.path.join("~", "cache"))
        assert cache.cache_dir() == tmp_path / "cache"

    def test_relative(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv(cache.VARIABLE, "cache")
        assert cache.cache_dir() == Path(os.getcwd(), "cache")

    def test_empty(self, monkeypatch):
        monkeypatch.setenv(cache.VARIABLE, "")
        standard = cache.cache_dir()
        monkeypatch.delenv(cache.VARIABLE)
        assert cache.cache_dir() == standard and standard.is_absolute()

    @pytest.mark.parametrize("below", ["", "cache"])
    def test_a_file(self, tmp_path, monkeypatch, caplog, below):
        (tmp_path / "file").touch()
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / below))
        rows(Writer())
        assert len(caplog.records) == 1 and ("Not a directory" if below else "no folder") in caplog.text

    def test_nobodys_home(self, monkeypatch):
        monkeypatch.setenv(cache.VARIABLE, "~nobody-of-that-name/cache")
        with pytest.raises(StorytellerError, match=cache.VARIABLE):
            rows(Writer())


class TestArrays:
    ARRAYS = {"a": ROWS, "b": np.arange(3, dtype=np.float32), "c": np.zeros((0, 5), np.float32),
              "d": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)}

    @pytest.fixture
    def source(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cache, "_LARGE", 10)
        path = tmp_path / "model.npz"
        path.write_bytes(bytes(100))
        return path

    def load(self, source, form=("plain",)):
        """The arrays, and whether they were made."""
        made = []
        found = cache.cached_arrays("kind", source, form, lambda: made.append(1) or dict(self.ARRAYS))
        assert list(found) == list(self.ARRAYS)
        for name, array in self.ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == np.float32
        return found, bool(made)

    def test_mapped_in_place_of_what_was_made(self, source):
        for made in (True, False):
            found, now = self.load(source)
            assert now == made
            for array in found.values():
                assert isinstance(array.base.base, np.memmap) or isinstance(array.base, np.memmap)
                assert type(array) is np.ndarray and not array.flags.writeable and array.flags.c_contiguous
                assert array.ctypes.data % 64 == 0 or not array.size

    def test_contents_and_form_count_and_names_do_not(self, source, tmp_path):
        assert self.load(source)[1] and self.load(source, ["other"])[1]
        status = source.stat()
        source.write_bytes(bytes(99) + b"1")
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert self.load(source)[1]
        assert not self.load(shutil.copy(source, tmp_path / "other.npz"))[1]

    def test_small_files_are_read(self, source, folder):
        source.write_bytes(b"small")
        assert self.load(source)[1] and self.load(source)[1] and not folder.exists()

    @pytest.mark.parametrize("damage", [lambda data: data[:-200], lambda data: data[:150] + b"x" + data[151:],
                                        lambda data: data.replace(b'"arrays"', b'"arrows"')])
    def test_damaged(self, source, folder, damage):
        self.load(source)
        (entry,) = folder.glob("kind-*.npy")
        entry.write_bytes(damage(entry.read_bytes()))
        assert self.load(source)[1] and not self.load(source)[1]

    def test_a_folder_that_cannot_be_written(self, source, tmp_path, monkeypatch, caplog):
        (tmp_path / "file").touch()
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
        assert self.load(source)[1] and self.load(source)[1]
        assert len(caplog.records) == 2 and "Not a directory" in caplog.text

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="may write everywhere")
    def test_a_read_only_folder_serves_what_it_has(self, source, folder, caplog):
        self.load(source)
        folder.chmod(0o555)
        try:
            assert not self.load(source)[1] and not caplog.records
            assert self.load(source, ["other"])[1] and len(caplog.records) == 1
        finally:
            folder.chmod(0o755)

    def test_a_full_disk(self, source, folder, monkeypatch, caplog):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=0))
        assert self.load(source)[1]
        assert len(caplog.records) == 1 and not list(folder.glob("kind*"))

    def test_a_file_that_changes_while_it_is_read(self, source, folder):
        def make():
            source.write_bytes(bytes(200))
            return dict(self.ARRAYS)
        with pytest.raises(StorytellerError, match="model.npz: was replaced"):
            cache.cached_arrays("kind", source, [], make)
        assert not list(folder.glob("kind*"))

    def test_no_file(self, source):
        def make():
            raise StorytellerError("says what is wrong")
        source.unlink()
        with pytest.raises(StorytellerError, match="says what is wrong"):
            cache.cached_arrays("kind", source, [], make)

    def test_another_process_maps_the_same(self, source):
        self.load(source)
        code = ("import sys\nfrom storyteller import cache\ncache._LARGE = 10\n"
                "print(cache.cached_arrays('kind', sys.argv[1], ['plain'], dict)['a'].sum())")
        done = subprocess.run([sys.executable, "-c", code, source], capture_output=True, text=True, check=True,
                              cwd=Path(__file__).parents[1])
        assert float(done.stdout) == ROWS.sum()

    def test_is_listed(self, source, capsys):
        self.load(source)
        assert cli.main(["cache"]) == 0
        assert f"kind of {source} (4 arrays)" in capsys.readouterr().out


class TestModels:
    """Models whose weights are mapped compute what those do whose weights were read."""

    @pytest.mark.parametrize("load, compute", [
        (lambda: embedding.load_model(JOINT / "coco_embedding.npz"),
         lambda model: embedding.encode_sentences(model, ["a cat on a mat"])),
        (lambda: skipthoughts.load_model(GOLDENS / "skipthoughts", GOLDENS / "skipthoughts"),
         lambda model: skipthoughts.encode(model, ["He sat by the window ."])),
        (lambda: decoder.load_model(GOLDENS / "story" / "decoder.npz", GOLDENS / "story" / "decoder_dictionary.pkl"),
         lambda model: model.f_init(np.ones((1, model.dimctx), np.float32)))])
    def test_sentences_and_passages(self, load, compute, monkeypatch):
        read = compute(load())
        monkeypatch.setattr(cache, "_LARGE", 0)
        made = compute(load())
        monkeypatch.setattr(files, "load_arrays", None)
        mapped = load()
        np.testing.assert_array_equal(made, read)
        np.testing.assert_array_equal(compute(mapped), read)
        np.testing.assert_array_equal(compute(pickle.loads(pickle.dumps(mapped))), read)

    def test_convnet(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cache, "_LARGE", 0)
        path, random = tmp_path / "vgg19.pkl", np.random.default_rng(0)
        path.write_bytes(b"weights")
        params = [random.random(shape, dtype=np.float32)
                  for n in (3, 16) for shape in ((16, n, 3, 3), (16,))] + [np.eye(4, dtype=np.float32)]
        spec = {"source": "keras", "scale": np.full(3, 2, np.float32), "shift": np.full(3, 1, np.float32)}
        monkeypatch.setattr(files, "load_vgg19", lambda path: (params, spec))
        expected = vgg.prepared(params, "cpu")
        for _ in range(2):
            found, options = vgg.load_params(path)
            for array, wanted in zip(found, expected):
                np.testing.assert_array_equal(array, wanted)
            assert len(found) == 5 and options["scale"].tolist() == [2, 2, 2] and options["shift"].tolist() == [1] * 3
            # Prepared once only.
            assert all(a is b for a, b in zip(vgg.prepared(found, "cpu"), found))
            monkeypatch.setattr(files, "load_vgg19", None)


class TestCaptions:
    @pytest.fixture
    def models(self, tmp_path):
        shutil.copytree(JOINT, tmp_path / "model")
        return tmp_path / "model"

    def test_the_vectors_are_those_of_the_captions_in_hand(self, models, folder):
        path = models / "captions.txt"
        vse, captions = embedding.load_model(models / "coco_embedding.npz"), text.read_captions(path)
        path.write_text("\n".join(reversed(captions)))      # after they were read
        for given in (captions, captions[::-1], captions[:5]):
            np.testing.assert_allclose(embedding.embed_captions(vse, given, path),
                                       embedding.encode_sentences(vse, given), atol=1e-6)
        assert len(list(folder.glob("captions-*.npy"))) == 3

    def test_models_and_folders(self, models, folder, tmp_path):
        def embed(where):
            vse = embedding.load_model(where / "coco_embedding.npz")
            embedding.embed_captions(vse, text.read_captions(where / "captions.txt"), where / "captions.txt")
            return len(list(folder.glob("captions-*.npy")))
        other = shutil.copytree(models, tmp_path / "other")
        assert embed(models) == embed(other) == 1   # one content
        arrays = dict(np.load(other / "coco_embedding.npz"))
        files.save_arrays(other / "coco_embedding.npz", **{**arrays, "encoder_b": arrays["encoder_b"] + 1})
        assert embed(other) == embed(models) == embed(other) == 2
        options = files.load_options(other / "coco_embedding.npz.pkl")
        files.save_pickle(other / "coco_embedding.npz.pkl", {**options, "normalize": True})
        assert embed(other) == 3

    def test_a_dictionary_that_is_changed_in_hand(self, models):
        vse = embedding.load_model(models / "coco_embedding.npz")
        before, copied = vse.fingerprint(), pickle.loads(pickle.dumps(vse))
        assert copied.fingerprint() == before
        copied.worddict["something new"] = 2
        assert copied.fingerprint() != before

    @pytest.mark.parametrize("ending", ["", ".pkl", ".dictionary.pkl"])
    def test_a_model_replaced_while_it_is_read(self, models, monkeypatch, ending):
        real = embedding.load_params

        def meanwhile(*args):
            found = real(*args)
            with open(models / f"coco_embedding.npz{ending}", "ab") as file:
                file.write(b"?")
            return found
        monkeypatch.setattr(embedding, "load_params", meanwhile)
        with pytest.raises(StorytellerError, match="coco_embedding.npz: was replaced"):
            embedding.load_model(models / "coco_embedding.npz")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
    def test_a_pipe_in_place_of_a_model(self, models):
        (models / "coco_embedding.npz").unlink()
        os.mkfifo(models / "coco_embedding.npz")
        with pytest.raises(StorytellerError, match="coco_embedding.npz: this is"):
            embedding.load_model(models / "coco_embedding.npz")


def test_a_table_replaced_while_it_is_read(tmp_path, monkeypatch, folder):
    for name in ("utable.npy", "btable.npy"):
        shutil.copy(OBJECTS / name, tmp_path)
    shutil.copy(GOLDENS / "skipthoughts" / "dictionary.txt", tmp_path)
    real = files.convert_object_table

    def meanwhile(path, *args):
        found = real(path, *args)
        with open(path, "r+b") as file:
            file.seek(-20, os.SEEK_END)
            file.write(b"?")
        return found
    monkeypatch.setattr(files, "convert_object_table", meanwhile)
    with pytest.raises(StorytellerError, match="utable.npy"):
        skipthoughts.load_model(GOLDENS / "skipthoughts", tmp_path)
    assert not list(folder.glob("table-*.npy*[!k]"))


class TestCommand:
    def test_list_and_clear(self, folder, capsys):
        rows(Writer())
        with pytest.raises(KeyboardInterrupt):
            rows(Writer(fails_at=3), "aa")
        (folder / "notes.txt").write_text("mine")
        assert cli.main(["cache"]) == 0
        shown = capsys.readouterr().out
        assert "kind of SOURCE (10 x 4)" in shown and "unfinished" in shown and "notes" not in shown
        assert cli.main(["cache", "--json"]) == 0
        assert {Path(file["path"]).name for file in json.loads(capsys.readouterr().out)["files"]} >= {"kind-0123.npy"}
        assert cli.main(["cache", "clear"]) == 0
        assert [path.name for path in folder.iterdir()] == ["notes.txt"]

    def test_what_another_process_makes_stays(self, folder, capsys):
        from filelock import FileLock
        folder.mkdir()
        (folder / "kind-aa.npy.part").write_bytes(b"1")
        with FileLock(folder / "kind-aa.npy.lock"):
            assert cli.main(["cache", "clear"]) == 0
            assert (folder / "kind-aa.npy.part").exists()
        assert "kind-aa.npy.part" in capsys.readouterr().out

    def test_nothing_there(self, capsys):
        assert cli.main(["cache"]) == cli.main(["cache", "clear"]) == 0


def test_killed_while_an_entry_is_made(folder):
    code = ("import sys, time, numpy as np\nfrom storyteller import cache\n"
            "def write(file, start):\n    file.write(bytes(16))\n    print('here', flush=True)\n    time.sleep(60)\n"
            "cache.cached_rows('kind', 'SOURCE', '0123', (10, 4), write, True)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as child:
        assert child.stdout.readline() == b"here\n"
        child.kill()
    start = time.monotonic()
    write = Writer()
    found = cache.cached_rows("kind", "SOURCE", "0123", ROWS.shape, write, True)
    assert write.starts == [1] and not found[0].any() and time.monotonic() < start + 30


def test_a_name_with_a_null_character():
    with pytest.raises(StorytellerError, match="null"):
        vgg.build_convnet("a\x00b")
