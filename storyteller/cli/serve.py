"""``storyteller serve``: the page in the browser."""
from __future__ import annotations

import argparse
import socket

from ..errors import StorytellerError
from . import UsageError
from .arguments import add_device, new_parser, real, whole
from .terminal import say

_LOCAL = ["127.0.0.1", "localhost", "::1"]
_LAST_PORT = 65535
_SECONDS_TO_END = 5     # for the stories that are being told at Ctrl-C
_EPILOG = """\
programs send a photo and get the JSON of `storyteller --json`; /openapi.json describes it:
  curl --data-binary @photo.jpg 'http://127.0.0.1:8000/story?style=verse&lyric=true'
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = new_parser("storyteller serve", "Show a page that tells stories about photos, in the browser, on this "
                      "machine.  Needs the extra: pip install fastapi uvicorn.  Ctrl-C ends it.", _EPILOG)
    add = made.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to be reached at; 0.0.0.0 lets others on the network "
        "use the page (default: %(default)s)")
    add("--port", type=whole(0), default=8000, metavar="N", help="0: any that is free (default: %(default)s)")
    add("--workers", type=whole(), default=1, metavar="N", help="processes that tell stories, each with models of its "
        "own (default: %(default)s)")
    add("--threads", type=whole(), default=1, metavar="N", help="processors that one story may use (default: "
        "%(default)s)")
    add("--max-upload", type=real(0), default=20, metavar="MB", help="largest photo (default: %(default)s)")
    add("--max-waiting", type=whole(0), default=32, metavar="N", help="photos that may wait for a worker; more are "
        "refused (default: %(default)s)")
    add_device(made)
    made.set_defaults(run=run)
    return made


def run(options: argparse.Namespace) -> int:
    """Serve the page until a signal comes."""
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise StorytellerError(f"the page needs {error.name}: pip install fastapi uvicorn") from error
    from .. import config as configs
    config = configs.load(options.config)
    config.require()
    with _listen(options.host, options.port) as listening:
        from .. import generate
        from ..web.app import MEGABYTE, make_app
        from ..web.workers import Workers
        z = generate.Models(config, not options.quiet, options.device)
        workers = Workers(z, options.workers, options.threads, options.max_waiting)
        try:
            workers.load()
            app = make_app(workers, round(options.max_upload * MEGABYTE), _LOCAL if options.host in _LOCAL else None)
            server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, log_level="warning",
                                                   timeout_graceful_shutdown=_SECONDS_TO_END))
            host, port = listening.getsockname()[:2]
            say(f"The page is at http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl-C ends it)")
            server.run(sockets=[listening])
        finally:
            workers.close()
    return 0


def _listen(host: str, port: int) -> socket.socket:
    if port > _LAST_PORT:
        raise UsageError(f"--port is {port}: expected at most {_LAST_PORT}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise StorytellerError(f"--host {host}, --port {port}: the page cannot be offered there ({error.strerror}); "
                               "give another --port or --host") from error
