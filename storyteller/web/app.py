"""The page and its HTTP interface."""
# Without `from __future__ import annotations`: FastAPI reads the annotations, and they name local classes.
import asyncio
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

from .. import __version__
from ..config import Config
from ..errors import StorytellerError, shown
from .workers import Busy, Workers

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

MEGABYTE = 1 << 20
_SECONDS_TO_SEND = 120
_READ_FURTHER = 8       # times the largest photo: a client that is still sending does not hear what it is answered
# The page needs nothing from elsewhere, and is shown in no other.
_HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
            "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; "
                                       "form-action 'none'; frame-ancestors 'none'"}
_DESCRIPTION = ("Looks at a picture and tells a short story about it in the style of a book. Send a photo as the body "
                "of POST /story; the answer is the JSON that `storyteller --json` prints. An error is a JSON object "
                "with one sentence, `error`.")


class Refused(Exception):
    """A request that is answered with an error: an HTTP status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str):
        super().__init__(sentence)
        self.status = status


def page_files() -> dict[str, Path]:
    """What the page consists of, by name, the sample pictures included."""
    here = Path(__file__).parent
    samples = here / "samples"                      # of an installed package
    if not samples.is_dir():
        samples = here.parents[1] / "images"        # of a checkout
    return {path.name: path for path in [*(here / "page").iterdir(), *sorted(samples.glob("*.jpg"))]}


def _default_style(config: Config) -> Optional[str]:
    """The name of the settings' style, if it has one."""
    return next((name for name in config.style_names() if config.style_path(name) == config.paths.get("posbias")), None)


def make_app(workers: Workers, max_upload: int = 20 * MEGABYTE, hosts: Optional[list[str]] = None) -> "FastAPI":
    """The page as an ASGI application.

    Parameters
    ----------
    workers : Workers
    max_upload : int
        Bytes of a photo at most.
    hosts : list of str, optional
        The names that the machine may be called by; by default any.  With them no other page that a browser shows
        can read this one by giving its own name this machine's address.

    Returns
    -------
    fastapi.FastAPI
    """
    from fastapi import FastAPI, Query, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, JSONResponse, Response
    from pydantic import BaseModel, ConfigDict, Field
    from starlette.exceptions import HTTPException
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")

        style: Optional[str] = Field(None, description="A style's name; the settings' by default")
        strength: float = Field(1.0, ge=-10, le=10, description="Of the style shift; 0 tells in caption style")
        lyric: Optional[bool] = Field(None, description="In lines, split at pauses; by default with the style verse")
        prose: Optional[bool] = Field(None, description="Capitals, and no blanks before punctuation")
        k: int = Field(100, ge=1, le=1000, description="Nearest captions to think of")
        beam_width: int = Field(50, ge=1, le=200)
        candidates: Optional[int] = Field(None, ge=0, le=200, description="Tell sentence by sentence, each the "
                                          "best of so many drawn at random; 0: the likeliest story of a beam search")
        guidance: Optional[float] = Field(None, ge=-10, le=10, description="With candidates: above 1 the picture "
                                          "counts more")
        n_best: int = Field(1, ge=1, le=100, description="Stories in `alternatives`")
        sample: bool = Field(False, description="Draw the words at random instead of searching")
        temperature: Optional[float] = Field(None, gt=0, description="Of what is drawn")
        top_k: Optional[int] = Field(None, ge=1, description="Of what is drawn")
        top_p: Optional[float] = Field(None, gt=0, le=1, description="Of what is drawn")
        seed: Optional[int] = Field(None, ge=0, lt=1 << 31, description="Another seed, another story; the same seed "
                                    "gives the same one")
        max_words: int = Field(1000, ge=1, le=1000)
        strict: bool = Field(False, description="Refuse photos that are truncated or blank instead of warning")

    class CaptionAnswer(BaseModel):
        text: str
        score: float = Field(description="Cosine of caption and photo in the joint space")

    class PassageAnswer(BaseModel):
        passage: str = Field(description="The decoder's words, apart by blanks")
        text: str
        cost: float = Field(description="Negative log-likelihood in nats")
        finished: bool
        similarity: Optional[float] = Field(description="Of its sentences to the photo; null without candidates")

    class StoryAnswer(BaseModel):
        image: str
        style: str
        text: str
        passage: str
        cost: float
        lyric: bool
        captions: list[CaptionAnswer] = Field(description="The k nearest, best first")
        alternatives: list[PassageAnswer] = Field(description="The story told first")
        warnings: list[str] = Field(description="What is wrong with the photo")
        timings: dict[str, float] = Field(description="Seconds of each stage")

    class Status(BaseModel):
        version: str
        workers: int
        working: int = Field(description="Workers that tell a story")
        waiting: int = Field(description="Photos that wait for one")
        most_waiting: int
        max_upload: int = Field(description="Bytes of a photo at most")
        styles: list[str]
        style: Optional[str] = Field(description="The settings' style")
        candidates: int = Field(description="The settings' candidates of every sentence")

    class Problem(BaseModel):
        error: str

    app = FastAPI(title="storyteller", version=__version__, description=_DESCRIPTION, docs_url=None, redoc_url=None)
    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    files = page_files()
    styles, default_style = workers.z.config.style_names(), _default_style(workers.z.config)

    def problem(status: int, sentence: str, headers: Optional[dict[str, str]] = None) -> Response:
        return JSONResponse({"error": sentence}, status, headers)

    app.add_exception_handler(Refused, lambda _, error: problem(error.status, str(error)))
    app.add_exception_handler(StorytellerError, lambda _, error: problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)))
    app.add_exception_handler(Busy, lambda _, error: problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error),
                                                             {"Retry-After": "10"}))
    app.add_exception_handler(HTTPException, lambda _, error: problem(error.status_code, str(error.detail)))
    app.add_exception_handler(RequestValidationError, lambda _, error: problem(HTTPStatus.UNPROCESSABLE_ENTITY,
                                                                               _sentence(error.errors())))
    app.add_exception_handler(Exception, lambda _, error: problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "the server has failed over this photo; its terminal says how"))

    refusals: dict[Any, Any] = {status.value: {"model": Problem, "description": what} for status, what in (
        (HTTPStatus.REQUEST_TIMEOUT, "The photo did not arrive in time"),
        (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The photo has too many bytes"),
        (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A form, not a photo"),
        (HTTPStatus.UNPROCESSABLE_ENTITY, "No picture, or an option that is wrong"),
        (HTTPStatus.SERVICE_UNAVAILABLE, "The queue is full"))}
    photo_body = {"requestBody": {"required": True, "description": "The photo's file: JPEG, PNG, GIF, WebP, TIFF, BMP",
                                  "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}

    @app.post("/story", summary="Tell a story about a photo", operation_id="story", openapi_extra=photo_body,
              responses={**refusals, 200: {"model": StoryAnswer}})
    async def story(request: Request, options: Annotated[Options, Query()]) -> Response:
        if options.style is not None and options.style not in styles:
            raise StorytellerError(f"style is {shown(options.style)}: expected one of {', '.join(styles)}")
        telling = options.model_dump(exclude_none=True)
        telling.update(bw=telling.pop("beam_width"), maxlen=telling.pop("max_words"))
        try:
            with workers.place():
                photo = await asyncio.wait_for(_receive(request, max_upload), _SECONDS_TO_SEND)
                told = await _unless_gone(request, workers.tell(photo, telling))
                return JSONResponse(told)
        except Busy:
            with suppress(Refused):
                await asyncio.wait_for(_receive(request, 0, max_upload), _SECONDS_TO_SEND)
            raise
        except asyncio.TimeoutError:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the photo did not arrive within "
                          f"{_SECONDS_TO_SEND} seconds; send it again, or a smaller one") from None
        except (ClientDisconnect, ConnectionError):
            return Response(status_code=400)    # nobody reads it

    @app.get("/status", summary="How busy the server is, and what it takes", operation_id="status")
    async def status() -> Status:
        return Status(version=__version__, workers=workers.n, working=workers.working, waiting=workers.waiting,
                      most_waiting=workers.most_waiting, max_upload=max_upload, styles=styles, style=default_style,
                      candidates=workers.z.config.telling.get("candidates", 0))

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    @app.api_route("/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(name: str = "index.html") -> FileResponse:
        if name not in files:
            raise HTTPException(404, "there is no such page; stories are told at /")
        return FileResponse(files[name], headers=_HEADERS)

    return app


async def _receive(request: "Request", most: int, expected: Optional[int] = None) -> bytes:
    """The body of a request, of `most` bytes at most.

    Of a larger one some more is read, and thrown away (up to a few times `expected`).
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "this is a form: send the photo itself as the body, as "
                      "`curl --data-binary @photo.jpg` does")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= most:
            parts.append(part)
        elif size > (expected or most) * _READ_FURTHER:
            break
    if size > most:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the photo has more than {most / MEGABYTE:g} MB: make it "
                      "smaller first")
    if not size:
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "there is no photo in the body of the request: expected the "
                      "bytes of a picture's file")
    return b"".join(parts)


async def _unless_gone(request: "Request", telling: Any) -> Any:
    """What a coroutine returns; it is cancelled, with ConnectionError, when the client goes away."""
    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
    told, left = asyncio.ensure_future(telling), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({told, left}, return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            return told.result()
        raise ConnectionError
    finally:
        told.cancel()
        left.cancel()


def _sentence(errors: Any) -> str:
    """One sentence about arguments that are wrong."""
    first = errors[0]
    name = str(first["loc"][-1])[:60]
    if first["type"] == "extra_forbidden":
        return f"{shown(name)} is no option: see /openapi.json for those that are"
    return f"{name} is {shown(first['input'])}: {first['msg'][:1].lower()}{first['msg'][1:]}"
