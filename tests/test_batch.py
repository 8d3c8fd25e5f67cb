"""Stories of many photos: executors, rows that align with what was asked, and going on after an interruption."""
from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from storyteller import StorytellerError, batch, cli, generate, workers
from storyteller.images import open_picture

# Of Python, where a process with threads is forked.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
ROOT = Path(__file__).parent.parent
FAST = dict(k=5, bw=2, maxlen=6, candidates=0)
forks = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")


def tell(z, image, show=False, style=None, **options):
    """In the place of generate.story: a story that depends on the pixels."""
    picture = open_picture(image)
    told = f"{picture.pixels.mean():.3f} in {style} ."
    return generate.Story(picture.name, [generate.Caption(f"caption {i}", 1 / (i + 1)) for i in range(9)], told,
                          float(picture.pixels.std()), style or "romance", {}, warnings=list(picture.warnings))


def photo(path, seed=0, cut=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", **options)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.getvalue()[:len(data.getvalue()) - cut])
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in workers: sums by more threads are rounded otherwise."""
    workers.limit_threads(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six photos, of which one is truncated and two cannot be read."""
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        photo(tmp_path / "photos" / f"{i}.jpg", i)
    photo(tmp_path / "photos" / "deep" / "3.JPG", 3, cut=400)
    photo(tmp_path / "photos" / ".hidden" / "4.jpg")
    (tmp_path / "photos" / "5.png").write_bytes(b"no picture")
    (tmp_path / "photos" / "6.jpg").touch()
    (tmp_path / "photos" / "notes.txt").touch()
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run `storyteller batch` with stories that cost nothing; gives status, rows, output and errors."""
    z = {"stv": SimpleNamespace(dim=None)}
    monkeypatch.setattr(generate, "load_all", lambda config=None, verbose=True, device=None: z)
    monkeypatch.setattr(generate, "story", tell)

    def call(*arguments, output="s.jsonl"):
        capsys.readouterr()
        status = cli.main(["batch", *map(str, arguments), "-o", output])
        out, err = capsys.readouterr()
        assert "Traceback" not in err and not list(Path().glob("*.lock")) and not list(Path().glob("*.part"))
        return status, rows_of(output) if os.path.exists(output) else None, out, err
    return call


def rows_of(path):
    if str(path).endswith(".parquet"):
        return list(batch.read_parquet(str(path)))
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


PHOTOS = ["photos/0.jpg", "photos/1.jpg", "photos/2.jpg", "photos/5.png", "photos/6.jpg", "photos/deep/3.JPG"]


# -- executors ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def compact():
    return generate.load_all({}, verbose=False)


def one_by_one(z, images):
    return [generate.story(z, image, show=False, **FAST) for image in images]


def test_stories_of_threads_and_of_processes(compact, folder):
    images = [*PHOTOS[:3], str(ROOT / "images" / "ex1.jpg")]
    expected = one_by_one(compact, images)
    with ThreadPoolExecutor(2) as pool:
        assert generate.stories(compact, images, executor=pool, ahead=3, verbose=False, **FAST) == expected
    with workers.processes(compact, 2) as pool:
        assert generate.stories(compact, images, executor=pool, verbose=False, **FAST) == expected
        # Streams are read here; errors stand in the place of their picture.
        with open(images[0], "rb") as stream:
            found = list(generate.outcomes(compact, [images[3], "missing.jpg", stream, "photos/5.png"], pool, **FAST))
    assert [type(outcome) for _, outcome in found] == [generate.Story, StorytellerError] * 2
    assert found[0][1] == expected[3] and str(found[2][1]) == str(expected[0])


def nap(_):
    time.sleep(0.02)


@forks
def test_workers_end_quietly_at_an_error(monkeypatch):
    """Before Python 3.12 a pool that breaks leaves the traceback of its own thread where work is cancelled."""
    left, shutdown = [], ProcessPoolExecutor.shutdown
    monkeypatch.setattr(threading, "excepthook", lambda found: left.append(found.exc_value))
    # Late, so that the pool has the time to see processes end.
    monkeypatch.setattr(ProcessPoolExecutor, "shutdown",
                        lambda pool, **options: time.sleep(0.1) or shutdown(pool, **options))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), workers.processes({}, 2) as pool:
            waiting = [pool.submit(nap, number) for number in range(12)]
            waiting[0].result()
            for future in waiting:
                future.cancel()
            raise KeyboardInterrupt
        assert not multiprocessing.active_children()
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        thread.join(1)
    assert not left


def test_another_process_loads_the_models_once(compact):
    data = pickle.dumps([workers.Shared(compact)] * 2)
    first, second = (pickle.loads(pickle.dumps(workers.Shared(compact))).z for _ in range(2))
    assert first is second and len(data) < 20_000
    assert one_by_one(first, [ROOT / "images" / "ex1.jpg"]) == one_by_one(compact, [ROOT / "images" / "ex1.jpg"])


def test_workers_that_are_not_forked(compact, monkeypatch):
    monkeypatch.setattr(workers, "_may_fork", lambda z: False)
    images = [ROOT / "images" / "ex1.jpg", "missing.jpg"]
    with workers.processes(compact, 1) as pool:
        told = [outcome for _, outcome in generate.outcomes(compact, images, pool, **FAST)]
    assert told[0] == one_by_one(compact, images[:1])[0] and isinstance(told[1], StorytellerError)


def test_arguments_of_outcomes(compact):
    for wrong in (dict(executor=3), dict(ahead=0), dict(images="a.jpg"), dict(images=None)):
        with pytest.raises(StorytellerError, match=next(iter(wrong))):
            generate.outcomes(compact, **{"images": [], **wrong})
    with ThreadPoolExecutor(1) as pool, pytest.raises(StorytellerError, match="missing.jpg"):
        generate.stories(compact, ["missing.jpg"], executor=pool, verbose=False, **FAST)


def end(z, image, **options):
    os.kill(os.getpid(), signal.SIGKILL)


@forks
def test_a_worker_that_is_killed(run, monkeypatch):
    monkeypatch.setattr(generate, "story", end)
    status, rows, _, err = run("photos", "--workers", 2)
    assert status == 1 and "a worker process ended" in err and not rows


# -- which photos ---------------------------------------------------------------------------------------

def test_find_photos(folder):
    assert batch.find_photos(["photos"]) == PHOTOS
    assert batch.find_photos(["photos/**/*.jpg", "missing.jpg", "photos/0.jpg"]) == [*PHOTOS[:3], PHOTOS[4],
                                                                                     "missing.jpg"]
    shutil.copy(PHOTOS[0], "photos/[1].jpg")
    assert batch.find_photos(["photos/[1].jpg"]) == ["photos/[1].jpg"]
    for wrong in ("photos/*.gif", "photos/none"):
        os.makedirs("photos/none", exist_ok=True)
        with pytest.raises(StorytellerError, match=wrong.replace("*", r"\*")):
            batch.find_photos([wrong])


def test_read_list(folder):
    Path("a.txt").write_text("photos/0.jpg\r\n\nb c.jpg\nphotos/0.jpg\n", encoding="utf-8-sig")
    assert batch.read_list("a.txt") == ["photos/0.jpg", "b c.jpg", "photos/0.jpg"]
    Path("a.csv").write_text('id,path\n1,"a,b.jpg"\n2,c.jpg\n', encoding="utf-8")
    assert batch.read_list("a.csv") == ["a,b.jpg", "c.jpg"] and batch.read_list("a.csv", "id") == ["1", "2"]
    Path("a.tsv").write_text("file\na.jpg\n", encoding="utf-8")
    assert batch.read_list("a.tsv") == ["a.jpg"]
    Path("short.csv").write_text("id,path\n1\n", encoding="utf-8")
    Path("empty.txt").write_text("\n", encoding="utf-8")
    for path, column, message in (
            ("a.csv", "name", "id, path"), ("a.txt", "path", "--column"), ("none.csv", None, "no such file"),
            ("short.csv", None, "line 2"), ("empty.txt", None, "names no photo"), ("photos/0.jpg", None, "JPEG")):
        with pytest.raises(StorytellerError, match=message):
            batch.read_list(path, column)


# -- rows -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [[], pytest.param(["--workers", 2], marks=forks)])
def test_rows_align_with_what_was_asked(run, options):
    Path("more.txt").write_text("missing.jpg\nphotos/1.jpg\n", encoding="utf-8")
    status, rows, out, err = run("photos", "--from-file", "more.txt", "--captions", 2, *options)
    assert status == 1 and "8 rows" in out and "3 photos" in out
    assert [row["path"] for row in rows] == [*PHOTOS, "missing.jpg", "photos/1.jpg"]
    told = [row for row in rows if row["error"] is None]
    assert len(told) == 5 and rows[1] == rows[7] and [len(row["captions"]) for row in told] == [2] * 5
    assert [row["passage"] for row in told] == [tell({}, row["path"]).passage for row in told]
    for row in rows:
        assert row["error"] is None or (row["text"] is None and os.path.basename(row["path"]) in row["error"])
    assert "truncated" in rows[5]["warnings"][0]


def test_what_is_told_again(run, monkeypatch):
    told = []

    def counted(z, image, **options):
        told.append(image)
        return tell(z, image, **options)
    monkeypatch.setattr(generate, "story", counted)

    def resumed(*arguments):
        told.clear()
        return run("photos", "--resume", *arguments)[1]
    assert resumed() and told == PHOTOS
    before = Path("s.jsonl").read_bytes()
    assert resumed() and told == [] and Path("s.jsonl").read_bytes() == before
    photo(Path("photos/1.jpg"), 11)
    os.utime("photos/2.jpg", (1, 1))
    assert [row["path"] for row in resumed()] == PHOTOS and told == PHOTOS[1:3]
    assert resumed("--check-content") and told == PHOTOS     # no contents are known yet
    os.utime("photos/2.jpg", (2, 2))
    assert resumed("--check-content") and told == []
    photo(Path("photos/5.png"), 5)
    os.utime("photos/5.png", (1, 1))
    assert [row["error"] for row in resumed("--check-content")][3] is None and told == PHOTOS[3:4]
    assert resumed("--check-content", "--retry-failed") and told == PHOTOS[4:5]
    for options in (["--style", "verse"], ["--style", "verse", "--captions", 6], ["-k", 3], []):
        assert resumed(*options) and told == PHOTOS
    os.remove("photos/0.jpg")
    assert [row["path"] for row in resumed()] == PHOTOS[1:] and told == []
    photo(Path("photos/0.jpg"))
    assert [row["path"] for row in resumed()] == PHOTOS and told == PHOTOS[:1]


def test_nothing_is_lost_by_mistake(run):
    run("photos")
    before = Path("s.jsonl").read_bytes()
    assert run("photos")[0] == 1 and "--resume" in run("photos")[3]
    status, _, _, err = run("photos/0.jpg", "--resume")
    assert status == 1 and "not asked for" in err and Path("s.jsonl").read_bytes() == before
    for wrong in (["--retry-failed"], ["--column", "x"], ["--dask", "tcp://x:1", "--workers", 2],
                  ["--dask", "tcp://x:1", "--threads", 2]):
        assert run("photos", *wrong)[0] == 2
    assert run()[0] == 2 and run("photos", output="s.txt")[0] == 2 and run("photos", output="none/s.jsonl")[0] == 1


def test_rows_that_are_not_whole(run):
    """A power cut leaves a part of a row, or zeros in its place."""
    run("photos")
    before = Path("s.jsonl").read_bytes()
    lines = before.splitlines(keepends=True)
    for damaged in (before[:-1], before[:-100], before[:len(lines[0]) + 7], b"", b"\n",
                    lines[0] + b"\0" * 50 + b"\n" + lines[2], lines[3] + lines[0] + lines[0]):
        Path("s.jsonl").write_bytes(damaged)
        run("photos", "--resume")
        assert Path("s.jsonl").read_bytes() == before
    for other in (b'{"path": "photos/0.jpg"}\n', lines[0] + b"Dear diary\n" + lines[1], b"[1, 2]\n", b"1\n"):
        Path("s.jsonl").write_bytes(other)
        assert cli.main(["batch", "photos", "-o", "s.jsonl", "--resume"]) == 1
        assert Path("s.jsonl").read_bytes() == other


def test_one_batch_at_a_time(run):
    from filelock import FileLock
    with FileLock("s.jsonl.lock"):
        status = cli.main(["batch", "photos", "-o", "s.jsonl"])
    assert status == 1 and not Path("s.jsonl").exists()


def test_names_that_are_not_utf8(run):
    shutil.copy("photos/0.jpg", b"photos/\xff.jpg")
    before = run("photos")[1]
    assert "photos/\udcff.jpg" in [row["path"] for row in before]
    assert run("photos", "--resume")[1] == before


def test_a_full_disk(folder):
    rows = batch.Rows("s.jsonl", ["a", "b"])
    rows.append(batch.row_of("a", StorytellerError("x"), batch.State(1, 1), "o", 0))

    class Full(io.FileIO):
        def write(self, data):
            if len(data) < 100:
                raise OSError(28, "No space left on device")
            return super().write(data[:100])
    rows.close()
    rows._file = Full("s.jsonl", "ab")
    with pytest.raises(StorytellerError, match="No space left"):
        rows.append(batch.row_of("b", StorytellerError("x"), batch.State(1, 1), "o", 0))
    assert len(rows_of("s.jsonl")) == 1


def test_parquet(run):
    pytest.importorskip("pyarrow")
    expected = run("photos")[1]
    assert run("photos", output="s.parquet")[1] == expected
    assert sorted(map(str, Path().glob("s.*"))) == ["s.jsonl", "s.parquet"]
    assert run("photos", "--resume", output="s.parquet")[1] == expected
    # The rows that an interrupted run left are gone on with.
    os.remove("s.parquet")
    Path("s.parquet.jsonl").write_bytes(Path("s.jsonl").read_bytes()[:-10])
    assert run("photos", output="s.parquet")[0] == 1 and not Path("s.parquet").exists()
    assert run("photos", "--resume", output="s.parquet")[1] == expected
    assert run("--from-file", "s.parquet", output="t.jsonl")[1] == expected
    with pytest.raises(StorytellerError, match="something else"):
        batch.read_list("s.parquet", "size")
    Path("bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(StorytellerError, match="bad.parquet"):
        batch.read_list("bad.parquet")


def test_dask(compact, folder):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False,
                                  dashboard_address=None) as cluster:
        status = cli.main(["batch", *PHOTOS[:2], PHOTOS[3], "-o", "s.jsonl", "--dask", cluster.scheduler_address, "-k",
                           "5", "-b", "2", "--max-words", "6", "--candidates", "0"])
    assert status == 1 and [row["text"] for row in rows_of("s.jsonl")] == [
        str(told) for told in one_by_one(compact, PHOTOS[:2])] + [None]
    assert cli.main(["batch", PHOTOS[0], "-o", "t.jsonl", "--dask", "nowhere"]) == 1


# -- a process of its own -------------------------------------------------------------------------------

SCRIPT = """
import sys, time
sys.path[:0] = [{root!r}]
from storyteller import cli, generate
from tests import test_batch
def slowly(z, image, **options):
    time.sleep(0.01)
    return test_batch.tell(z, image, **options)
generate.story, generate.load_all = slowly, lambda *arguments, **options: {{}}
if __name__ == "__main__":
    sys.exit(cli.main())
"""


def start(output, *options):
    return subprocess.Popen([sys.executable, "-c", SCRIPT.format(root=str(ROOT)), "batch", "many", "-q", "-o", output,
                             *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def children(process):
    try:
        return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def wait_for_rows(path, n):
    for _ in range(6000):
        if Path(path).exists() and Path(path).read_bytes().count(b"\n") >= n:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path}: no {n} rows")


@forks
def test_runs_that_are_killed(folder):
    """Whenever a run is killed, the next one goes on: the rows are those of a run that nothing disturbed."""
    for i in range(60):
        photo(Path(f"many/{i:02d}.jpg"), i, cut=300 if i % 7 == 0 else 0)
        if i % 10 == 9:
            Path(f"many/{i:02d}.jpg").write_bytes(b"no picture")
    whole = start("whole.jsonl")
    assert whole.communicate(timeout=120) and whole.returncode == 1
    moments = random.Random(5)
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        resume = ["--resume"] if Path("s.jsonl").exists() else []
        done = Path("s.jsonl").read_bytes().count(b"\n") if resume else 0
        process = start("s.jsonl", "--workers", "2", *resume)
        wait_for_rows("s.jsonl", done + moments.randint(2, 8))
        pool = children(process.pid)
        assert len(pool) == 2
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), errors
        assert b"Traceback" not in errors and (number == signal.SIGKILL or b"--resume goes on" in errors)
        for _ in range(1000):       # its workers end with it
            if not any(Path(f"/proc/{worker}").exists() for worker in pool):
                break
            time.sleep(0.01)
        else:
            raise AssertionError("a worker is still there")
    last = start("s.jsonl", "--workers", "2", "--resume")
    assert last.communicate(timeout=120) and last.returncode == 1
    assert Path("s.jsonl").read_bytes() == Path("whole.jsonl").read_bytes() and len(rows_of("s.jsonl")) == 60
