"""Writing files: what is replaced, what is written into, what is refused."""
from __future__ import annotations

import os
import stat
import threading
import time

import pytest

from storyteller import StorytellerError, files

posix = pytest.mark.skipif(os.name != "posix", reason="needs modes, links and pipes")


def write(path, content=b"new"):
    with files.write_atomically(path) as file:
        file.write(content)


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_replaced_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(mode)
    write(path)
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link, dangling = tmp_path / "folder" / "target", tmp_path / "link", tmp_path / "dangling"
    target.write_bytes(b"old")
    link.symlink_to(target)
    dangling.symlink_to("folder/fresh")
    write(link)
    write(dangling)
    assert link.is_symlink() and dangling.is_symlink()
    assert target.read_bytes() == b"new" and (tmp_path / "folder" / "fresh").read_bytes() == b"new"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorytellerError, match="loop"):
        write(tmp_path / "loop")
    assert (tmp_path / "loop").is_symlink()


@posix
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_into(tmp_path, linked):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = pipe
    if linked:
        path = tmp_path / "link"
        path.symlink_to(pipe)
    with pytest.raises(StorytellerError, match=path.name):     # nobody reads; does not wait either
        write(path)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    content, got = os.urandom(300_000), bytearray()

    def read() -> None:
        end = time.monotonic() + 20
        while len(got) < len(content) and time.monotonic() < end:
            try:
                got.extend(os.read(reader, 1 << 16))    # nothing, as long as no writer has come
            except BlockingIOError:
                pass
            time.sleep(0.001)
        os.close(reader)

    thread = threading.Thread(target=read)
    thread.start()
    with files.write_atomically(path) as file:
        file.write(content[:10])
        file.seek(0)
        file.write(content)
    thread.join(20)
    assert bytes(got) == content and stat.S_ISFIFO(os.lstat(pipe).st_mode)
    assert path.is_symlink() == linked


@posix
def test_devices_stay(tmp_path):
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    write(link)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode) and link.is_symlink()
    if os.path.exists("/dev/full"):
        with pytest.raises(StorytellerError, match="/dev/full"):
            write("/dev/full")


@posix
def test_names_that_are_not_utf8(tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    try:
        write(name)
    except StorytellerError:
        pytest.skip("this file system takes UTF-8 names only")
    with open(name, "rb") as file:
        assert file.read() == b"new"
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9"]
    assert files.describe(name) == "a text file"


@posix
def test_deleted_working_folder(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(StorytellerError, match="out"):
        write("out")
    monkeypatch.chdir(tmp_path)


def test_odd_names():
    for name in ("a\0b", ""):
        with pytest.raises(StorytellerError):
            write(name)
    for name in (1, None, 2.5, ["x"]):     # 1 is an open file for `open`
        with pytest.raises(TypeError):
            write(name)
        with pytest.raises(TypeError):
            files.load_pickle(name)


def test_errors_of_other_files_are_not_blamed_on_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), files.write_atomically(tmp_path / "out"):
        open(tmp_path / "missing", "rb").close()
    with pytest.raises(ValueError), files.write_atomically(tmp_path / "out"):
        int("x")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_as_numpy_tells_it(tmp_path):
    with pytest.raises(StorytellerError, match="x.npy: cannot be written .only a part of it, as on a full disk"):
        with files.write_atomically(tmp_path / "x.npy"):
            raise OSError("204800 requested and 992 written")
    assert not os.listdir(tmp_path)


def test_what_killed_writers_left_is_removed(tmp_path):
    for name in ("out.123.0123abcd.part", "out.124.0123abcd.part", "other.123.0123abcd.part", "out.mine.part"):
        (tmp_path / name).write_bytes(b"half")
        if ".124." not in name:
            os.utime(tmp_path / name, (0, 0))
    write(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["other.123.0123abcd.part", "out", "out.124.0123abcd.part", "out.mine.part"]
