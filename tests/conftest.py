"""What the tests share: the golden data, VGG-19 weights made from their seed, a cache of their own."""
from __future__ import annotations

import json
import logging
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.practice import save_vgg19_pickle, vgg19_weights, write_settings

GOLDENS = Path(__file__).parent / "goldens"

# A shell ignores Ctrl-C in what it runs in the background, and so would the programs that tests start from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test touches the user's cache, settings or NLTK data."""
    patch = pytest.MonkeyPatch()
    patch.setenv("STORYTELLER_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.delenv("STORYTELLER_CONFIG", raising=False)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def own_log():
    """What a test sets of the package's logging (``-q`` does) ends with it."""
    yield
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "storyteller" and isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)
            logger.disabled, logger.propagate = False, True


@pytest.fixture(scope="session")
def goldens() -> Path:
    return GOLDENS


@pytest.fixture(scope="session")
def vgg_weights() -> list[np.ndarray]:
    return vgg19_weights()


@pytest.fixture(scope="session")
def vgg_file(vgg_weights, tmp_path_factory) -> Path:
    """A full-size vgg19.pkl as Lasagne's, 575 MB; deleted again when the tests end."""
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pkl"
    save_vgg19_pickle(path, vgg_weights)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def net(vgg_file):
    from storyteller import vgg
    return vgg.build_convnet(vgg_file)


@pytest.fixture(scope="session")
def story_settings(vgg_file, tmp_path_factory) -> Path:
    return write_settings(tmp_path_factory.mktemp("settings") / "config.py", vgg_file)


@pytest.fixture(scope="session")
def z(story_settings):
    from storyteller import generate
    return generate.load_all(story_settings, verbose=False)


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))
