"""`storyteller serve`: the HTTP interface, the workers behind it, and the page in headless Chromium."""
from __future__ import annotations

import http.client
import importlib.util
import io
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import pytest

from storyteller import StorytellerError, cli, compact, generate
from storyteller.workers import Shared
from tests.test_readme import snippets

pytest.importorskip("fastapi", reason="needs the extra: pip install '.[web]'")
pytest.importorskip("uvicorn", reason="needs the extra: pip install '.[web]'")
if not Path(compact.FOLDER, "romance.npz").is_file():
    pytest.skip("no compact models", allow_module_level=True)

ROOT = Path(__file__).parents[1]
PHOTOS = [ROOT / "images" / f"ex{number}.jpg" for number in (1, 2, 3, 4)]
SMALL = {"k": 5, "beam_width": 2, "candidates": 2, "max_words": 20}     # options of stories that are told at once
OF_STORY = {"beam_width": "bw", "max_words": "maxlen"}
AGAIN = {"temperature": 0.7, "top_p": 0.95}
MAX_UPLOAD = 1      # MB
SHOWN = 3           # candidates that the page shows
PATIENCE = 300      # seconds, for a machine that is busy with something else


class Server:
    """`storyteller serve` in a process of its own."""

    def __init__(self, settings: Path, folder: Path, workers: int = 2):
        self.settings, self.folder = settings, folder
        self.said = folder.with_suffix(".stderr")
        with open(self.said, "w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "storyteller", "serve", "--config", str(settings), "--port", "0", "--workers",
                 str(workers), "--max-upload", str(MAX_UPLOAD)], cwd=folder, stdout=subprocess.PIPE, stderr=said,
                text=True, env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT),
                                "OPENBLAS_NUM_THREADS": "1"})
        self.address = re.search(r"http://\S+/", self.process.stdout.readline()).group()
        self.port = int(self.address.rstrip("/").rpartition(":")[2])

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer, json.loads(data) if answer.headers["Content-Type"] == "application/json" else data

    def tell(self, photo: bytes, **options):
        """Status and JSON."""
        answer, told = self.ask("POST", "/story?" + urlencode(options), photo)
        return answer.status, told

    def workers(self) -> list[int]:
        """Their process ids."""
        found = []
        for number in filter(str.isdigit, os.listdir("/proc")):
            try:
                parent = int(Path("/proc", number, "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and b"spawn_main" in Path("/proc", number, "cmdline").read_bytes():
                    found.append(int(number))
            except OSError:
                pass
        return sorted(found)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Path:
    """The compact models with few captions and candidates."""
    folder = tmp_path_factory.mktemp("serve")
    lines = Path(compact.FOLDER, "captions.txt").read_text(encoding="utf-8").splitlines()
    (folder / "captions.txt").write_text("\n".join(lines[::100]) + "\n", encoding="utf-8")
    path = folder / "config.py"
    path.write_text("paths = {'captions': 'captions.txt'}\ntelling = {'prose': True, 'candidates': 4}\n",
                    encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def z(settings):
    return generate.load_all(settings, verbose=False)


@pytest.fixture(scope="module")
def server(settings, tmp_path_factory):
    started = Server(settings, tmp_path_factory.mktemp("running"))
    yield started
    if started.process.poll() is None:
        started.stop()


def single(z, photo, **options) -> dict:
    """What a single call tells, as the server is to answer it."""
    told = generate.story(z, photo, show=False, **{OF_STORY.get(name, name): value for name, value in options.items()})
    return comparable(json.loads(json.dumps({**told.to_dict(), "image": "the photo"})))


def comparable(told: dict) -> dict:
    """An answer without times, its numbers rounded."""
    rounded = json.loads(json.dumps(told), parse_float=lambda number: round(float(number), 3))
    return {**rounded, "timings": sorted(rounded["timings"])}


class TestInterface:
    @pytest.mark.parametrize("options", [
        {}, {"style": "tale", "n_best": 3, **SMALL}, {"style": "verse", "lyric": False, **SMALL},
        {"prose": False, "strength": 0.5, **SMALL},
        {"seed": 7, **AGAIN, **SMALL}, {**SMALL, "candidates": 0}],
        ids=["plain", "style", "no lines", "words", "seed", "likeliest"])
    def test_the_answer_is_what_a_single_call_tells(self, server, z, options):
        status, told = server.tell(PHOTOS[0].read_bytes(), **options)
        assert status == 200 and comparable(told) == single(z, PHOTOS[0], **options)

    def test_the_commands_of_its_page(self, server, tmp_path, monkeypatch, z):
        monkeypatch.chdir(tmp_path)
        shutil.copy(PHOTOS[0], "photo.jpg")
        told = []
        for language, snippet in snippets(ROOT / "docs" / "serve.md"):
            snippet = snippet.replace("http://127.0.0.1:8000/", server.address)
            if snippet.startswith("curl ") and shutil.which("curl"):
                asked = subprocess.run(shlex.split(snippet), capture_output=True, check=True)
                told.append((json.loads(asked.stdout), {"style": "tale"}))
            elif language == "python" and importlib.util.find_spec("requests"):
                names: dict = {}
                exec(compile(snippet, "serve.md", "exec"), names)
                told.append((names["story"], {"n_best": 3}))
        assert all(comparable(answer) == single(z, "photo.jpg", **options) for answer, options in told)
        if not told:
            pytest.skip("needs curl, or requests")

    def test_openapi_describes_it(self, server):
        _, described = server.ask("GET", "/openapi.json")
        asked = described["paths"]["/story"]["post"]
        assert asked["requestBody"]["content"]["image/*"]["schema"]["format"] == "binary"
        named = {parameter["name"] for parameter in asked["parameters"]}
        assert {*SMALL, *AGAIN, "style", "strength", "lyric", "prose", "seed", "n_best", "top_k", "strict", "sample",
                "guidance"} == named
        parts = described["components"]["schemas"]
        _, told = server.tell(PHOTOS[0].read_bytes(), **SMALL)
        for part, answer in (("StoryAnswer", told), ("CaptionAnswer", told["captions"][0]),
                             ("PassageAnswer", told["alternatives"][0])):
            assert parts[part]["properties"].keys() == answer.keys()
        _, status = server.ask("GET", "/status")
        assert status.keys() == parts["Status"]["properties"].keys()
        assert status["styles"] == ["adventure", "romance", "tale", "verse"] and status["style"] == "verse"
        assert status["waiting"] == status["working"] == 0 and status["workers"] == 2

    @pytest.mark.parametrize("body, status, words", [
        (b"", 422, "no photo"), (b"no picture " * 100, 422, "not a picture"), (b"<svg xmlns='a'>", 422, "SVG"),
        (PHOTOS[0].read_bytes()[:200], 422, "decoded|not a picture"),
        (b"\xff" * (MAX_UPLOAD << 20) + b"x", 413, "1 MB"), (os.urandom(6 << 20), 413, "1 MB")],
        ids=["empty", "text", "drawing", "cut", "large", "larger"])
    def test_bad_photos_get_a_sentence(self, server, body, status, words):
        found, answer = server.tell(body, **SMALL)
        assert found == status and answer.keys() == {"error"} and re.search(words, answer["error"])
        assert "\n" not in answer["error"] and len(answer["error"]) < 400

    def test_a_huge_picture_is_refused(self, server):
        from PIL import Image
        data = io.BytesIO()
        Image.new("1", (13370, 13370)).save(data, "PNG")
        status, answer = server.tell(data.getvalue(), **SMALL)
        assert status == 422 and "13370 x 13370 pixels are too many" in answer["error"]

    def test_a_truncated_photo_gets_a_warning_or_with_strict_an_error(self, server):
        data = PHOTOS[0].read_bytes()[:20000]
        status, answer = server.tell(data, **SMALL)
        assert status == 200 and "truncated" in answer["warnings"][0]
        status, answer = server.tell(data, strict=True, **SMALL)
        assert status == 422 and "truncated" in answer["error"]

    @pytest.mark.parametrize("options, words", [
        ({"style": "../../etc/passwd"}, "adventure, romance, tale, verse"),
        ({"style": "caption_style.npy"}, "expected one of"),
        ({"beam_width": 100000}, "beam_width"), ({"strength": "nan"}, "strength"), ({"lyrics": 1}, "lyrics"),
        ({"seed": 3, "candidates": 0}, "seed"), ({"k": "x" * 5000}, "k is")], ids=lambda value: str(value)[:20])
    def test_wrong_options_get_a_sentence(self, server, options, words):
        status, answer = server.tell(PHOTOS[0].read_bytes(), **{**SMALL, **options})
        assert status == 422 and words in answer["error"] and len(answer["error"]) < 400

    def test_a_form_and_other_addresses(self, server):
        answer, told = server.ask("POST", "/story", b"x", {"Content-Type": "multipart/form-data; boundary=b"})
        assert answer.status == 415 and "--data-binary" in told["error"]
        answer, told = server.ask("GET", "/../setup.py")
        assert answer.status == 404 and told["error"]
        answer, _ = server.ask("GET", "/", headers={"Host": "elsewhere.example"})
        assert answer.status == 400

    def test_nothing_stays_on_disk(self, server):
        cache = Path(os.environ["STORYTELLER_CACHE"])

        def files():
            # Vectors of captions may be kept: those are the settings', whatever the photo.
            return sorted((path, path.stat().st_size) for folder in (server.folder, cache)
                          for path in folder.rglob("*") if ".sqlite" not in path.name)
        before = files()
        server.tell(PHOTOS[1].read_bytes(), **SMALL)
        server.tell(b"no picture", **SMALL)
        assert files() == before


class TestWorkers:
    def test_clients_at_once(self, server, z):
        """A small version of benchmarks/serve.py."""
        asked = [(photo, seed) for seed in range(4) for photo in PHOTOS]
        options = {**AGAIN, **SMALL}
        expected = [single(z, photo, seed=seed, **options) for photo, seed in asked]
        with ThreadPoolExecutor(4) as clients:
            told = list(clients.map(lambda job: server.tell(job[0].read_bytes(), seed=job[1], **options), asked))
        assert [status for status, _ in told] == [200] * 16
        assert [comparable(answer) for _, answer in told] == expected
        assert len({json.dumps(answer) for answer in expected}) > 8

    @pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc here")
    def test_a_worker_is_killed(self, server, z):
        before = server.workers()
        assert len(before) == 2
        expected = [single(z, photo, **SMALL) for photo in PHOTOS]
        os.kill(before[0], signal.SIGKILL)
        with ThreadPoolExecutor(4) as clients:
            first = clients.map(lambda photo: server.tell(photo.read_bytes(), **SMALL), PHOTOS)
            os.kill(before[1], signal.SIGKILL)
            told = list(first)
        # The workers take turns; one that has ended is replaced when its turn comes.
        told += [server.tell(photo.read_bytes(), **SMALL) for photo in PHOTOS]
        assert [status for status, _ in told] == [200] * 8
        assert [comparable(answer) for _, answer in told] == expected * 2
        after = server.workers()
        assert len(after) == 2 and not set(after) & set(before)

    def test_who_has_left_is_not_waited_for(self, settings, monkeypatch):
        import asyncio

        from storyteller.web.app import make_app
        from storyteller.web.workers import Workers

        async def never(*_):
            await asyncio.Event().wait()
        workers = Workers(generate.Models(settings))
        monkeypatch.setattr(workers, "tell", never)
        with running(make_app(workers)) as ask:
            def until(waiting):
                started = time.monotonic()
                while ask("GET", "/status")[1]["waiting"] != waiting:
                    assert time.monotonic() < started + PATIENCE
                    time.sleep(0.05)
            head = b"POST /story HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
            clients = [socket.create_connection(("127.0.0.1", ask.__self__.port)) for _ in range(5)]
            for client in clients:
                client.sendall(head + b"photo")
            until(waiting=5)
            for client in clients:
                client.close()
            until(waiting=0)

    def test_the_queue_is_bounded(self, settings):
        from storyteller.web.app import make_app
        from storyteller.web.workers import Workers
        workers = Workers(generate.Models(settings), most_waiting=0)    # its process starts with the first story
        try:
            with running(make_app(workers)) as ask, workers.place():
                answer, told = ask("POST", "/story", b"x" * 100000)
                assert answer.status == 503 and answer.headers["Retry-After"] and "waiting" in told["error"]
                _, status = ask("GET", "/status")
                assert status["waiting"] == 1 and status["working"] == 0
            assert workers.waiting == 0
        finally:
            workers.close()

    def test_a_photo_that_ends_workers_is_given_up(self, settings, monkeypatch):
        import asyncio

        from storyteller.web import workers as processes

        class Ending:
            def __init__(self, *_):
                made.append(self)

            def ask(self, function, *_):
                if function is processes._tell:
                    raise processes.Ended
        made = []
        monkeypatch.setattr(processes, "Worker", Ending)
        workers = processes.Workers(generate.Models(settings))
        with pytest.raises(StorytellerError, match="ended over it 2 times"):
            asyncio.run(workers.tell(b"x", {}))
        assert len(made) == 2 and workers.working == 0

    @pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP here")
    def test_a_worker_is_killed_before_it_has_read_its_photo(self, settings):
        """Nor is the end of the server held up, whether the photo fits into the pipe or not."""
        from storyteller.web import workers as processes
        worker = processes.Worker(Shared(generate.Models(settings)), 1)
        os.kill(worker.process.pid, signal.SIGSTOP)
        ended = []

        def ask():
            with pytest.raises(processes.Ended):
                worker.ask(processes._tell, b"x" * (1 << 20), {})
            ended.append(True)
        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.2)         # it writes
        worker.process.kill()
        asking.join(PATIENCE)
        assert ended

    def test_an_error_in_a_worker(self, settings):
        """It says where it happened."""
        from storyteller.web import workers as processes
        worker = processes.Worker(Shared(generate.Models(settings)), 1)
        try:
            with pytest.raises(TypeError) as error:
                worker.ask(processes._tell)
            assert "in _work" in str(error.value.__cause__)
        finally:
            worker.process.kill()

    def test_an_error_that_cannot_be_sent(self):
        """It is told, and its worker goes on: a pipe takes no locks, nor errors that are made of more than a text."""
        from storyteller.web import workers as processes

        class Wants(Exception):
            def __init__(self, one, two):
                super().__init__(f"{one} and {two}")

        for error, said in ((ValueError("a lock", threading.Lock()), "ValueError"), (Wants(1, 2), "Wants: 1 and 2")):
            assert said in str(pickle.loads(pickle.dumps(processes._portable(error))))
        error = StorytellerError("too large")
        assert processes._portable(error) is error


class running:
    """An app on a server in a thread; gives a function that asks it."""

    def __init__(self, app):
        self.app = app

    def __enter__(self):

        import uvicorn
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_config=None, access_log=False))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]})
        self.thread.start()
        asking = Server.__new__(Server)
        asking.port = self.listening.getsockname()[1]
        return asking.ask

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        self.listening.close()


class TestCommand:
    def call(self, capsys, *arguments):
        status = cli.main(["-q", "serve", *map(str, arguments)])
        return status, capsys.readouterr().err

    def test_a_port_that_is_taken(self, settings, capsys):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            status, said = self.call(capsys, "--config", settings, "--port", port)
        assert status == 1 and f"--port {port}" in said and "Traceback" not in said
        for wrong, expected in ((["--port", 70000], 2), (["--host", "256.1.1.1"], 1)):
            status, said = self.call(capsys, "--config", settings, *wrong)
            assert status == expected and wrong[0] in said and "Traceback" not in said

    def test_without_the_extra(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        status, said = self.call(capsys)
        assert status == 1 and "pip install fastapi uvicorn" in said

    def test_models_that_do_not_fit(self, settings, tmp_path, capsys):
        import numpy as np
        np.save(tmp_path / "b.npy", np.ones(7, np.float32))
        (tmp_path / "config.py").write_text("paths = {'posbias': 'b.npy'}\n", encoding="utf-8")
        status, said = self.call(capsys, "--config", tmp_path / "config.py", "--port", 0)
        assert status == 1 and "posbias" in said and "Traceback" not in said

    @pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc here")
    def test_workers_end_with_a_server_that_is_killed(self, settings, tmp_path):
        started = Server(settings, tmp_path, workers=1)
        worker, = started.workers()
        started.process.kill()
        started.process.wait()
        started.process.stdout.close()
        killed = time.monotonic()
        while os.path.exists(f"/proc/{worker}") and " Z " not in Path(f"/proc/{worker}/stat").read_text():
            assert time.monotonic() < killed + PATIENCE, "the worker lives on"
            time.sleep(0.05)


# The page.

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs a driver: pip install '.[browser]'")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Root, as in a container, has no sandbox.
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@pytest.fixture
def page(browser, server):
    with_page = browser.new_context(viewport={"width": 1100, "height": 800},
                                    permissions=["clipboard-read", "clipboard-write"])
    opened = open_page(with_page, server)
    yield opened
    assert not opened.errors
    with_page.close()


def open_page(context, server):
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE * 1000)
    opened.errors = []
    # From here on: a driver told of it when a key is pressed already may come too late.
    opened.on("filechooser", lambda _: None)
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    # A status like 422 is logged as an error, too: it is no fault of the page.
    opened.on("console", lambda message: message.type == "error" and "status of 4" not in message.text
              and opened.errors.append(message.text))
    opened.goto(server.address)
    opened.wait_for_selector("#style option:nth-child(3)", state="attached")
    return opened


# By selectors: functions are compiled by eval, which the page's Content-Security-Policy forbids.

def told(page) -> str:
    """The story, when the page shows it."""
    page.wait_for_selector("body:not(.busy) #told:not([hidden])")
    return page.locator("#story").inner_text()


def error(page) -> str:
    """The error, when the page shows it."""
    page.wait_for_selector("body:not(.busy) #error:not(:empty)")
    return page.locator("#error").inner_text()


class TestPage:
    def test_a_story(self, page, z):
        page.set_input_files("#file", PHOTOS[0])
        expected = single(z, PHOTOS[0], n_best=SHOWN)
        assert told(page) == expected["text"]
        assert page.locator("#photo").is_visible() and page.locator("#photo").evaluate("e => e.naturalWidth") > 0
        captions = page.locator("#captions li")
        assert captions.count() == 8 and expected["captions"][0]["text"] in captions.first.inner_text()
        widths = captions.locator(".bar").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
        assert widths == sorted(widths, reverse=True) and widths[-1] > 50
        rows = page.locator("#candidates tr")
        assert rows.count() == len(expected["alternatives"]) == SHOWN
        for row, other in zip(rows.all(), expected["alternatives"]):
            cells = [cell.inner_text().replace("\N{MINUS SIGN}", "-") for cell in row.locator("td").all()]
            assert float(cells[0]) == pytest.approx(other["similarity"], abs=0.006) and cells[2] == other["text"]
            assert float(cells[1]) == pytest.approx(-other["cost"] / (len(other["passage"].split()) + 1), abs=0.006)
        page.wait_for_selector("#queue:has-text('Queue: 0 photos waiting, 0 of 2 workers busy.')")

    def test_what_is_seen_is_marked(self, page):
        answer = {"image": "the photo", "style": "romance", "cost": 9.0, "lyric": False, "warnings": [], "timings": {},
                  "passage": "cats", "text": "The <b>Cats</b> sat on his bench; a cat's man, by day. Categories.",
                  "captions": [{"text": f"his cat on the {place}", "score": 0.5} for place in "abcdefghijkl"]
                  + [{"text": "a man by the bench", "score": 0.1}],
                  "alternatives": [{"passage": "cats", "text": "Cats.", "cost": 9.0, "finished": True,
                                    "similarity": None}]}
        page.route("**/story?*", lambda route: route.fulfill(json=answer))
        page.set_input_files("#file", PHOTOS[0])
        assert told(page) == answer["text"]
        assert page.locator("#story mark").all_inner_texts() == ["Cats", "cat's"]
        assert page.locator("#story b").count() == 0
        page.unroute("**/story?*")

    def test_style_lines_strength_and_another(self, page, z):
        page.click("#samples button >> nth=1")
        assert told(page) == single(z, PHOTOS[1], n_best=SHOWN)["text"]
        with page.expect_response("**/story?*"):
            page.select_option("#style", "tale")
        assert told(page) == single(z, PHOTOS[1], n_best=SHOWN, style="tale")["text"]
        for lyric in (True, False):
            with page.expect_response("**/story?*"):
                page.set_checked("#lyric", lyric)
            assert told(page) == single(z, PHOTOS[1], n_best=SHOWN, style="tale", lyric=lyric)["text"]
        with page.expect_response("**/story?*"):
            page.locator("#strength").fill("0.5")
        options = {"n_best": SHOWN, "style": "tale", "lyric": False, "strength": 0.5}
        assert told(page) == single(z, PHOTOS[1], **options)["text"]
        for seed in (1, 2):
            with page.expect_response("**/story?*"):
                page.click("#another")
            assert told(page) == single(z, PHOTOS[1], seed=seed, **options)["text"]

    def test_copy_and_download(self, page):
        page.click("#samples button >> nth=0")
        text = told(page)
        page.click("#copy")
        page.wait_for_selector("#status:has-text('Copied.')")
        assert page.evaluate("navigator.clipboard.readText()") == text
        with page.expect_download() as downloaded:
            page.click("#download")
        assert downloaded.value.suggested_filename == "story.txt"
        assert Path(downloaded.value.path()).read_text(encoding="utf-8") == text + "\n"

    @pytest.mark.parametrize("event, target", [("drop", "#drop"), ("paste", "body")])
    def test_drop_and_paste(self, page, event, target):
        give = """([event, target, data]) => {
            const transfer = new DataTransfer();
            if (data) transfer.items.add(new File([new Uint8Array(data)], "a.jpg", {type: "image/jpeg"}));
            document.querySelector(target).dispatchEvent(event == "drop"
                ? new DragEvent(event, {dataTransfer: transfer, bubbles: true, cancelable: true})
                : new ClipboardEvent(event, {clipboardData: transfer, bubbles: true, cancelable: true}));
        }"""
        page.evaluate(give, [event, target, None])
        assert "no photo in that" in error(page)
        page.evaluate(give, [event, target, list(PHOTOS[0].read_bytes())])
        page.wait_for_selector("#told:not([hidden])")
        assert told(page) and not page.locator("#error").inner_text()

    def test_bad_photos(self, page, tmp_path):
        bad = tmp_path / "photo.jpg"        # the same name: a file can be chosen again
        for data, words in ((b"no picture", "not a picture"), (b"\xff\xd8\xff" + bytes(MAX_UPLOAD << 20), "1 MB")):
            bad.write_bytes(data)
            page.set_input_files("#file", bad)
            assert words in error(page) and page.locator("#told").is_hidden()
            page.click("#samples button >> nth=0")
            assert told(page)
        bad.write_bytes(PHOTOS[0].read_bytes()[:20000])
        page.set_input_files("#file", bad)
        page.wait_for_selector("#warning:not(:empty)")
        assert told(page) and "truncated" in page.locator("#warning").inner_text()
        bad.write_bytes(b"changed since it was chosen")
        page.click("#another")
        assert "choose it again" in error(page)
        page.click("#samples button >> nth=0")
        assert told(page)
        page.route("**/story?*", lambda route: route.abort())
        page.set_input_files("#file", PHOTOS[1])
        assert "does not answer" in error(page)
        page.unroute("**/story?*")
        page.set_input_files("#file", PHOTOS[1])
        assert told(page)
        page.route("**/ex3.jpg", lambda route: route.abort())
        page.click("#samples button >> nth=2")
        assert "does not answer" in error(page)
        assert [said for said in page.errors if "ERR_FAILED" not in said] == []
        page.errors.clear()

    def test_the_queue_is_shown(self, page):
        status = {"version": "1", "workers": 2, "working": 2, "waiting": 5, "most_waiting": 32, "max_upload": 1 << 20,
                  "styles": [], "style": None}
        page.route("**/status", lambda route: route.fulfill(json=status))
        held = []
        page.route("**/story?*", lambda route: held.append(route))
        page.click("#samples button >> nth=0")
        page.wait_for_selector("#status:has-text('5 photos waiting in the queue')")
        assert page.locator("#queue").inner_text() == "Queue: 5 photos waiting, 2 of 2 workers busy."
        held[0].fulfill(status=503, json={"error": "5 photos are waiting already: try again in a minute"})
        assert error(page) == "5 photos are waiting already: try again in a minute."
        page.errors.clear()

    def test_keyboard_alone(self, page):
        def focused():
            return page.evaluate("document.activeElement.id || document.activeElement.dataset.name")

        def tab_to(name):
            for _ in range(20):
                if focused() == name:
                    return
                page.keyboard.press("Tab")
            pytest.fail(f"{name} is not reached")
        tab_to("choose")
        assert page.locator("#choose").evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
        for key in ("Space", "Enter"):
            with page.expect_file_chooser() as chooser:
                page.keyboard.press(key)
            chooser.value.set_files(PHOTOS[0])
            told(page)
        tab_to("ex2.jpg")
        with page.expect_response("**/story?*"):
            page.keyboard.press("Enter")
        first = told(page)
        tab_to("style")
        with page.expect_response("**/story?*"):
            page.keyboard.press("t")
        assert page.input_value("#style") == "tale" and told(page)
        tab_to("strength")
        with page.expect_response("**/story?*"):
            page.keyboard.press("ArrowRight")
        told(page)
        tab_to("lyric")
        with page.expect_response("**/story?*"):
            page.keyboard.press("Space")
        told(page)
        tab_to("another")
        with page.expect_response("**/story?*"):
            page.keyboard.press("Enter")
        assert told(page) != first
        for name in ("copy", "download"):
            tab_to(name)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_phone_and_dark(self, browser, server, scheme):
        context = browser.new_context(viewport={"width": 375, "height": 700}, color_scheme=scheme, has_touch=True)
        page = open_page(context, server)
        page.tap("#samples button >> nth=0")
        assert told(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        overflowing = page.evaluate("""[...document.querySelectorAll('main *')].filter(e =>
            e.getBoundingClientRect().right > 376 && getComputedStyle(e).display != 'none').map(e => e.outerHTML)""")
        assert not overflowing
        assert page.evaluate("document.getElementById('story').getBoundingClientRect().top") < 700
        small = page.evaluate("""[...document.querySelectorAll('button, select')].filter(e =>
            e.getBoundingClientRect().height < 44).map(e => e.id)""")
        assert not small
        contrasts = page.evaluate("""() => {
            const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(v => v / 255)
                .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
            const behind = (e) => { for (; e; e = e.parentElement) {
                const colour = getComputedStyle(e).backgroundColor;
                if (!/, 0\\)/.test(colour)) return colour; } };
            const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            const bar = getComputedStyle(document.querySelector('.bar')).backgroundColor;
            return [...document.querySelectorAll('p, h1, button, label, mark, td, #captions span')]
                .filter(e => e.innerText && e.offsetParent).map(e => [e.tagName + e.id + e.className,
                ratio(light(getComputedStyle(e).color), light(e.closest('#captions') ? bar : behind(e)))]);
        }""")
        assert len(contrasts) > 30 and not [found for found in contrasts if found[1] < 4.5]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", background))) < 60) == (scheme == "dark")
        assert not page.errors
        context.close()


def test_the_end(server):
    """Last: it stops the server of the other tests."""
    workers = server.workers() if os.path.isdir("/proc/self") else []
    assert server.stop() == 130
    said = server.said.read_text()
    assert said.startswith("Loading the models, 2 workers...\n") and said.count("Loading") == 1
    assert not [number for number in workers if os.path.exists(f"/proc/{number}")]
