"""Settings: what is read from a config.py, what is refused, and where settings come from."""
from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

from storyteller import StorytellerError, compact, config, generate


def test_nothing_is_there(tmp_path, monkeypatch):
    """No settings, and a package without its models."""
    monkeypatch.setattr(compact, "FOLDER", str(tmp_path))
    with pytest.raises(StorytellerError) as error:
        generate.load_all({})
    for what in ("utable", "romance.npz", "embedding.npz", "efficientnet", "captions", "install storyteller"):
        assert what in str(error.value).replace("Install", "install")
    assert "neural_storyteller" not in str(error.value)     # not the download of 2015


def settings(tmp_path, source):
    path = tmp_path / "settings.py"
    path.write_text(source, encoding="utf-8")
    return path


@pytest.mark.parametrize("source, says", [
    ("paths = [", "line 1|settings"), ("import os\nos.system('touch hacked')", "line 2"),
    ("paths = {'vgg': open('x').read()}", "line 1"),
    ("paths = 3", "dict"), ("paths = {'vgg': 3}", "vgg"), ("FLAG_CPU_MODE = 'yes'", "FLAG_CPU_MODE"),
    ("for i in range(3): pass", "line 1"), ("paths = dict()\npaths[[1]] = 'x'", "line 2"),
    ("paths = {'vgg': __import__('os').getcwd()}", "line 1"), ("x = (" * 5000, "settings")])
def test_wrong_settings(source, says, tmp_path):
    with pytest.raises(StorytellerError, match=says):
        config.load(settings(tmp_path, source))


def test_missing_settings(tmp_path, monkeypatch):
    with pytest.raises(StorytellerError, match="nowhere.py"):
        config.load("nowhere.py")
    monkeypatch.setenv("STORYTELLER_CONFIG", "elsewhere.py")
    with pytest.raises(StorytellerError, match="STORYTELLER_CONFIG"):
        config.load()


ORIGINAL = """
# Configuration of the original
FLAG_CPU_MODE = False
import os
home = '/home/me/'
paths = dict()
paths['skmodels'] = home + 'models/'
paths['sktables'] = os.path.join(home, 'models')
paths['decmodel'] = '/data/romance.npz'
paths['dictionary'] = '/data/romance_dictionary.pkl'
paths['vsemodel'] = '/data/coco_embedding.npz'
paths['vgg'] = '/data/vgg19.pkl'
paths['pycaffe'] = '/caffe/python'
paths['vgg_proto_caffe'] = '/data/VGG_ILSVRC_19_layers_deploy.prototxt'
paths['vgg_model_caffe'] = '/data/VGG_ILSVRC_19_layers.caffemodel'
paths['captions'] = 'captions.txt'
paths['negbias'] = '/data/caption_style.npy'
paths['posbias'] = f'{home}romance_style.npy'
"""


def test_settings_of_the_original(tmp_path):
    found = config.load(settings(tmp_path, ORIGINAL))
    assert found.cpu_mode is False
    assert found.paths["skmodels"] == "/home/me/models/"
    assert found.paths["captions"] == str(tmp_path / "captions.txt")  # beside the settings
    assert found.paths["posbias"] == "/home/me/romance_style.npy"


def test_caffe_weights_serve_where_lasagnes_are_missing(tmp_path):
    caffe = tmp_path / "VGG.caffemodel"
    caffe.write_bytes(b"x")
    source = f"paths = {{'vgg': 'vgg19.pkl', 'vgg_model_caffe': {str(caffe)!r}}}"
    assert config.load(settings(tmp_path, source)).paths["vgg"] == str(caffe)


def test_where_settings_come_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "compact" in config.load().source
    Path("config.py").write_text("DEBUG = True\nimport flask\napp = flask.Flask()\n")  # somebody else's
    assert "compact" in config.load().source
    Path("config.py").write_text("paths = {'vgg': 'a'}")
    assert config.load().paths["vgg"].endswith("a")
    other = settings(tmp_path, "paths = {'vgg': 'b'}")
    monkeypatch.setenv("STORYTELLER_CONFIG", str(other))
    assert config.load().paths["vgg"].endswith("b")
    assert config.load({"vgg": "c"}).paths["vgg"] == os.path.join(str(tmp_path), "c")
    assert config.load({"paths": {"vgg": "/d"}, "FLAG_CPU_MODE": False}).paths["vgg"] == "/d"


def test_what_no_setting_names_is_left_to_the_compact_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = config.load({"decmodel": "mine.npz", "skmodels": "mine"}).paths
    assert "dictionary" not in left and "sktables" not in left  # they belong to what was named
    assert set(left) == set(config.FILES) - {"dictionary", "sktables"}
    assert os.path.basename(left["captions"]) == "captions.txt"
    assert config.load().telling["prose"] is True and not config.load({"decmodel": "mine.npz"}).telling


@pytest.mark.parametrize("source, words", [
    ("telling = 'prose'", "a dict of options"), ("telling = {'prosa': True}", "'prosa'"),
    ("telling = {'prose': 'yes'}", "settings.py: telling['prose'] is 'yes': expected True or False"),
    ("telling = {'candidates': 5000}", "settings.py: telling['candidates'] is 5000: expected at most 1000"),
    ("telling = {'candidates': -5}", "settings.py: telling['candidates'] is -5: expected a whole number"),
    ("telling = {'candidates': True}", "a whole number")])
def test_options_of_telling_in_settings(tmp_path, source, words):
    assert config.load(settings(tmp_path, "telling = {'prose': False}")).telling["prose"] is False
    with pytest.raises(StorytellerError, match=re.escape(words)):
        config.load(settings(tmp_path, source))


# Files of others.

FLAG = "FLAG_CPU_MODE = True\npaths = dict()\n"


@pytest.mark.parametrize("source, vgg", [
    ("n = 3\npaths = {'vgg': f'{n:03d}_{\"x\":>3}{n!r}'}", "003_  x3"),
    ("base = dict(vgg='a')\npaths = dict(**base, captions='c')", "a"),
    ("base = {'vgg': 'a'}\npaths = {**base, 'captions': 'b'}", "a"),
    ("paths = {'vgg': '{1}/{x}/{0:>4}'.format('a', 'q', x='b')}", "q/b/   a"),
    ("root = '/m'\npaths = {'vgg': '%s/%03d.pkl' % (root, 7)}", "/m/007.pkl"),
    ("from pathlib import Path\nroot = Path('m')\npaths = {'vgg': root / 'v'}", "m/v"),
    ("import os.path as osp\nfrom os.path import join as j\npaths = {'vgg': j(osp.join('a', 'b'), 'c')}", "a/b/c"),
    ("import os\npaths = {'vgg': os.path.join(os.path.sep, 'm', 'v')}", "/m/v"),
    ("import os\nif os.path.isdir('/nowhere'):\n    paths = {}\nelse:\n    paths = {'vgg': 'b'}", "b"),
    ("paths = {}\npaths.update(vgg='q')\nif __name__ == '__main__':\n    print(paths)", "q"),
    ("import os\npaths = {'vgg': os.environ.get('NOT_SET_HERE') or 'd'}", "d"),
    ("f = 'a'\nf += '/b'\npaths = {'vgg': f}", "a/b"),
    ("paths: dict = {'vgg': 'x'}\nsizes = [1, 2.5, -3, (4, 'x'), None]", "x"), ("paths = p = {}\np['vgg'] = 'x'", "x"),
    ("paths = {'vgg': '/'.join(['a', 'b'])}", "a/b"),
    (FLAG + "settings = dict()\nsettings['decoder'] = {'dim': 2400, 'doutput': False}\npaths['vgg'] = 'v'", "v"),
    ("import os\n" + FLAG + "paths['vgg'] = os.path.abspath('/x/../v')", "/v"),
    (FLAG + "paths['vgg'] = 'v'\ndef init(path):\n    paths['vgg'] = path\n", "v")])
def test_forms_of_others(source, vgg, tmp_path):
    assert config.load(settings(tmp_path, source)).paths["vgg"] == os.path.join(tmp_path, vgg)


def test_an_empty_path(tmp_path):
    found = config.load(settings(tmp_path, FLAG + "paths['vgg'] = paths['pycaffe'] = paths['sktables'] = ''"))
    assert found.paths["sktables"] == os.path.join(tmp_path, "")    # the folder of the settings
    with pytest.raises(StorytellerError, match=r"\(an empty path\)  \[paths\['vgg'\]\]"):
        found.path("vgg")
    assert {file.shown for file in found.needed(["vgg"])} == {"(an empty path)"}


def test_a_folder_in_place_of_a_file(tmp_path, monkeypatch):
    with pytest.raises(StorytellerError, match=r"\(a folder\)  \[paths\['captions'\]\]"):
        config.load({"captions": str(tmp_path)}).path("captions")
    monkeypatch.setenv(config.VARIABLE, str(tmp_path))
    with pytest.raises(StorytellerError, match=f"a folder.*{config.VARIABLE}"):
        config.load()


def test_a_variable_that_is_not_set(tmp_path):
    with pytest.raises(StorytellerError, match="settings.py, line 2: the environment variable 'NOT_SET_HERE'"):
        config.load(settings(tmp_path, "import os\npaths = {'vgg': os.environ['NOT_SET_HERE']}"))


def test_the_coding_of_the_file(tmp_path):
    path = tmp_path / "settings.py"
    for coding, mark in (("latin-1", b"# -*- coding: latin-1 -*-\n"), ("utf-8", b"\xef\xbb\xbf"), ("utf-8", b"")):
        path.write_bytes(mark + "paths = {'vgg': 'caf\xe9'}\r\n".encode(coding))
        assert config.load(path).paths["vgg"] == os.path.join(tmp_path, "caf\xe9")


BIG = "x" * 8000


@pytest.mark.parametrize("source", [
    "a = 'x'\n" + "a = a + a\n" * 60, "a = {}\n" + "a = {'x': a, 'y': a}\n" * 2000 + "paths = {'vgg': a}",
    "a = {}\n" + "a = {'x': a, 'y': a}\n" * 60 + "paths = {'vgg': f'{a}'}", "x = 10**10**10", "x = 'a' * 10**9",
    "x = " + "'a' + " * 9000 + "'a'", "x = " + "-" * 60000 + "1", "#" * (1 << 22), "x = " + "9" * 4000,
    "x = " + "9" * 9000, "paths = {'vgg': '{:>999999999}'.format('a')}", "paths = {'vgg': f'{1:0999999999d}'}",
    "w = 999999999\npaths = {'vgg': f'{1:{w}}'}", "paths = {'vgg': '%999999999s' % 'a'}",
    "paths = {'vgg': '%*s' % (99999999, 'a')}", "paths = {'vgg': '{0.__class__}'.format('a')}",
    "a = {}\n" + "".join(f"a = {{**a, '{i}': 1}}\n" for i in range(3000)),
    f"a = '{BIG}'\npaths = {{'vgg': a.join([{'a, ' * 5000}])}}", f"a = '{BIG}'\nb = '{'%s' * 9}' % ({'a, ' * 9})",
    f"import os\na = '{BIG}'\npaths = {{'vgg': os.path.join({'a, ' * 5000})}}"])
def test_settings_are_bounded(source, tmp_path):
    start = time.monotonic()
    with pytest.raises(StorytellerError, match="settings.py") as error:
        config.load(settings(tmp_path, source))
    assert time.monotonic() - start < 5 and len(str(error.value)) < 1000


@pytest.mark.parametrize("source", [
    "from other import *", "from other import paths", "paths = {}\ninit('x')", "paths = {'vgg': root}",
    "import mylib as os\npaths = {'vgg': os.path.join('a', 'b')}", "class os: pass\npaths = {'vgg': os.getcwd()}",
    "def paths(): pass", "print 'x'", "paths = {'vgg': 'C:\\new\\tables'}", "paths = {'vgg': 'a\\0b'}",
    "paths = dict([1])", "paths = {'vgg': '{}'.format()}", "paths = {'vgg': f'{1:q}'}", "x = 1 + 1"])
def test_what_is_not_understood_is_refused(source, tmp_path):
    with pytest.raises(StorytellerError, match="settings.py"):
        config.load(settings(tmp_path, source))


def test_keys_of_ones_own(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "storyteller"):
        source = FLAG + "paths['posbias_swift'] = 'b'\npaths['n'] = 3\npaths['vgg'] = 'v'"
        found = config.load(settings(tmp_path, source))
    assert len(caplog.records) == 1 and "posbias_swift" in caplog.text
    assert found.paths["vgg"] == str(tmp_path / "v") and "n" not in found.paths


def test_a_module_of_settings(tmp_path):
    module = types.ModuleType("config")
    module.__file__ = str(tmp_path / "config.py")
    module.paths, module.FLAG_CPU_MODE, module.np = {"vgg": "v", "mine": 3}, False, np
    found = config.load(module)
    assert found.paths["vgg"] == str(tmp_path / "v") and found.cpu_mode is False
    module.paths = [1]
    with pytest.raises(StorytellerError, match="module config"):
        config.load(module)
    with pytest.raises(StorytellerError, match="module os has no settings"):
        generate.load_all(os)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module as a fresh program finds it, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "_program", config._Program())
    for name in ("paths", "FLAG_CPU_MODE"):
        monkeypatch.delitem(vars(config), name, raising=False)
    yield config
    for name in ("paths", "FLAG_CPU_MODE"):
        vars(config).pop(name, None)


def test_what_a_program_changes_is_heard(own, tmp_path):
    assert own.paths["vgg"] == own.load().paths["vgg"] and own.FLAG_CPU_MODE is True
    Path("config.py").write_text("FLAG_CPU_MODE = False\npaths = {'captions': 'c'}")
    assert own.paths["captions"] == os.path.join(os.getcwd(), "c") and own.FLAG_CPU_MODE is False    # read anew
    own.paths["vgg"] = "v"
    own.FLAG_CPU_MODE = True
    for found in (own.load(), own.load(own), generate.Models(own, verbose=False).config):
        assert found.paths["vgg"] == os.path.join(os.getcwd(), "v") and found.cpu_mode is True
        assert found.paths["captions"] == os.path.join(os.getcwd(), "c")
    assert own.load({"captions": "x"}).paths["vgg"] != os.path.join(os.getcwd(), "v")    # named settings stand alone
    own.paths = {"vgg": "w"}
    assert own.load().paths["vgg"].endswith("w")
    own.paths["vgg"] = 3
    with pytest.raises(StorytellerError, match="vgg"):
        own.load()


def test_many_threads_read_one_dict(own):
    found = []
    threads = [threading.Thread(target=lambda: found.append(own.paths)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(paths is found[0] for paths in found)


def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings(tmp_path, "paths = {'vgg': '~/v'}")
    monkeypatch.setenv("STORYTELLER_CONFIG", "~/settings.py")
    for found in (config.load(), config.load("~/settings.py")):
        assert found.paths["vgg"] == str(tmp_path / "v")


def test_configs_of_other_projects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in (b"paths = ['a', 'b']", b"paths = {'data': 'x'}\nfor p in paths: print(p)", b"\xff\xfe\0",
                   b"x" * (1 << 20)):
        Path("config.py").write_bytes(source)
        assert "compact" in config.load().source


@pytest.mark.parametrize("value", [3, 1.5, True, [1], ("a",), object(), np.zeros(2), "", "a\0b", b"\xff", {"paths": 1},
                                   {"paths": {"vgg": 1}}, {"styles": 3}, {"telling": {"prose": np.zeros(3)}},
                                   {"FLAG_CPU_MODE": "x" * 9999}])
def test_wrong_arguments(value):
    with pytest.raises(StorytellerError) as error:
        config.load(value)
    assert len(str(error.value)) < 500


def test_a_deleted_working_folder(tmp_path):
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        ["sh", "-c", 'cd "$0"; rmdir "$0"; exec "$@"', str(tmp_path / "gone"), sys.executable, "-c",
         f"import sys; sys.path[0] = {str(Path(__file__).parent.parent)!r}\n"
         "from storyteller import config\nprint(config.load({'vgg': '/v'}).paths['vgg'], config.load().cpu_mode)"],
        capture_output=True, text=True, timeout=60)
    assert done.stdout == "/v True\n", done.stderr
