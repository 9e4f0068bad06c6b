"""The routes: predict, heatmap, model, samples, health, metrics, and the page's files."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from torch import Tensor

import vitreous
from vitreous.config import nearest
from vitreous.heatmaps import METHODS
from vitreous.serve import answers, uploads
from vitreous.serve.batcher import Batcher, Full, Late
from vitreous.serve.engine import Answer, Question, Run, View, answer
from vitreous.serve.guard import HEADERS, Guard, Rules
from vitreous.serve.linger import Linger
from vitreous.serve.metrics import Metrics
from vitreous.serve.samples import Samples
from vitreous.serve.turnstile import Turnstile, full

ASKING = frozenset(["/v1/predict", "/v1/heatmap"])
"""Those that take a picture, and a place for it."""
ROUTES = ASKING | {"/", "/health", "/metrics", "/openapi.json", "/v1/model", "/v1/samples"}
FILES = {"/": "index.html"} | {
    f"/{name}": name for name in ("style.css", "page.js", "panel.js", "draw.js", "ask.js", "icon.svg")
}
SAMPLES_WAIT = 5.0
"""Seconds that a request waits for the samples."""
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class Limits:
    """What the server takes on at once. Seconds and bytes."""

    places: int = 128
    """Pictures being read, waiting or being answered; more are refused with 503."""
    batch: int = 64
    deadline: float = 10.0
    """From a request's arrival to its answer, its upload included."""
    most_bytes: int = uploads.MOST_BYTES


RunName = Annotated[str | None, Query(alias="run", max_length=255, description="A name in /v1/model; else the first.")]
Top = Annotated[int, Query(ge=1, le=1000, description="How many classes.")]
Seen = Annotated[bool, Query(description="Send back the picture as the model sees it.")]
Which = Annotated[str, Query(pattern=r"^(mean|[1-9]\d{0,3})$", description="mean, or a number from 1.")]


class Service:
    """The runs, the queue in front of them, and what it takes to turn a request into an answer."""

    def __init__(self, runs: Mapping[str, Run], limits: Limits) -> None:
        self.runs, self.limits = runs, limits
        self.batcher: Batcher[Question, Answer] = Batcher(answer, limits.places, limits.batch)
        self.metrics = Metrics(lambda: (self.batcher.inside, self.batcher.capacity))
        self.batcher.groups = self.metrics.groups.observe
        # One thread: it bounds the memory of decoding, and silencing Pillow's warnings is not safe in two.
        self.decoder = ThreadPoolExecutor(1, thread_name_prefix="decoder")

    def run(self, name: str | None) -> Run:
        """A run by its name, None for the first. Raises HTTPException 404."""
        if name is None:
            return next(iter(self.runs.values()))
        if name not in self.runs:
            raise HTTPException(404, f"unknown run {name!r}{nearest(name, self.runs)}")
        return self.runs[name]

    async def ask(self, request: Request, run: Run, view: View | None) -> tuple[Question, Answer]:
        """Read, decode and answer, holding a place. Raises HTTPException for what the client can mend or retry."""
        deadline = time.monotonic() + self.limits.deadline
        try:
            with self.batcher.place():
                async with asyncio.timeout(self.limits.deadline):
                    question = Question(run, await self._pixels(request, run), view)
                return question, await self.batcher.ask(question, deadline)
        except Full:
            raise HTTPException(503, *full(self.limits.places)) from None
        except (Late, TimeoutError):
            reason = f"not answered within {self.limits.deadline:g} s: ask again in a few seconds"
            raise HTTPException(503, reason, {"retry-after": "3"}) from None
        except ValueError as problem:
            raise HTTPException(422, f"the picture cannot be read: {problem}") from None
        except ClientDisconnect:
            raise HTTPException(400, "the client left before its picture had arrived") from None

    async def _pixels(self, request: Request, run: Run) -> Tensor:
        """The picture as ``run`` reads it; its bytes, which can be many, are let go before it waits for its answer."""
        encoded = await uploads.picture_bytes(request, self.limits.most_bytes)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.decoder, uploads.read, run.classifier, encoded)


def build(
    runs: Mapping[str, Run], rules: Rules, limits: Limits | None = None, samples: Callable[[], Samples] = Samples
) -> FastAPI:
    """The application. ``samples`` is called once, in a thread, after the start: it may take its time."""
    service = Service(runs, limits or Limits())

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        app.state.samples, app.state.reader = _in_background(samples)
        yield
        await service.batcher.stop()
        service.decoder.shutdown()

    # FastAPI's own /docs would load scripts from elsewhere: the description is at /openapi.json.
    app = FastAPI(
        title="Vitreous",
        version=vitreous.__version__,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=answers.REFUSED,
    )
    app.state.service = service
    _routes(app, service)
    _page(app)
    _problems(app)
    rules = Rules(rules.hosts, rules.addresses, rules.token, frozenset({*FILES, "/health"}), ROUTES)
    app.add_middleware(Turnstile, paths=ASKING, places=service.batcher.capacity, taken=lambda: service.batcher.inside)
    app.add_middleware(Guard, rules=rules, metrics=service.metrics)
    app.add_middleware(Linger)
    return app


def _in_background(work: Callable[[], Samples]) -> tuple[asyncio.Future[Samples], threading.Thread]:
    """What ``work`` will give, from a thread that nobody waits for when the server ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Samples] = loop.create_future()

    def run() -> None:
        found = work()
        with contextlib.suppress(RuntimeError):  # the loop has ended in the meantime
            loop.call_soon_threadsafe(future.set_result, found)

    thread = threading.Thread(target=run, name="samples", daemon=True)
    thread.start()
    return future, thread


async def _samples(request: Request) -> Samples:
    """The sample pictures, waited for a while. Raises HTTPException 503 while the data are still being read."""
    try:
        return await asyncio.wait_for(asyncio.shield(request.app.state.samples), SAMPLES_WAIT)
    except TimeoutError:
        raise HTTPException(503, "the samples are still being read: ask again", {"retry-after": "1"}) from None


def _routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/predict", openapi_extra=answers.BODY, responses=answers.PROBLEMS, response_model=answers.Prediction)
    async def predict(request: Request, run: RunName = None, top: Top = 5, seen: Seen = False) -> Response:
        """The most probable classes of one picture."""
        question, found = await service.ask(request, service.run(run), None)
        return JSONResponse(answers.prediction(question, found, top, seen))

    @app.post("/v1/heatmap", openapi_extra=answers.BODY, responses=answers.PROBLEMS, response_model=answers.Heatmap)
    async def heatmap(
        request: Request,
        run: RunName = None,
        top: Top = 5,
        method: Annotated[
            str | None,
            Query(
                max_length=64,
                description="One that /v1/model names for the run; else its first.",
                json_schema_extra={"enum": list(METHODS)},
            ),
        ] = None,
        layer: Which = "mean",
        head: Which = "mean",
        patch: Annotated[
            str | None, Query(pattern=r"^\d{1,4},\d{1,4}$", description="row,column from 0: what this patch looks at.")
        ] = None,
        target: Annotated[
            str | None, Query(max_length=1000, description="The class to explain; else the best.")
        ] = None,
        seen: Seen = False,
    ) -> Response:
        """The most probable classes of one picture, and the map of what the model looks at."""
        one = service.run(run)
        place = tuple(map(int, patch.split(","))) if patch else None
        try:
            view = one.view(method, _number(layer), _number(head), (place[0], place[1]) if place else None, target)
        except ValueError as problem:
            raise HTTPException(400, str(problem)) from None
        question, found = await service.ask(request, one, view)
        return JSONResponse(answers.heatmap(question, found, top, seen))

    @app.get("/v1/model", response_model=answers.Models)
    async def model() -> Response:
        """The served runs: classes, picture size, layers, heads, methods, provenance."""
        facts = [run.to_json() for run in service.runs.values()]
        return JSONResponse({"version": vitreous.__version__, "runs": facts})

    @app.get("/v1/samples", responses=answers.READING, response_model=answers.SampleList)
    async def samples(request: Request) -> Response:
        """Validation pictures to try; waits until they are read."""
        found = await _samples(request)
        listed = [{"id": i, "label": s.label, "source": s.source} for i, s in enumerate(found.pictures)]
        return JSONResponse({"samples": listed, "note": found.note})

    @app.get("/v1/samples/{number}.png", response_class=Response, responses=answers.PICTURE | answers.READING)
    async def sample(request: Request, number: Annotated[int, Path(ge=0, le=10_000)]) -> Response:
        """One sample picture, as the model sees it."""
        found = await _samples(request)
        if number >= len(found.pictures):
            raise HTTPException(404, f"there is no sample {number}: see /v1/samples")
        return Response(found.pictures[number].png, media_type="image/png")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts and times for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _number(text: str) -> int | None:
    return None if text == "mean" else int(text)


@functools.cache
def page_file(name: str) -> bytes:
    """One of the page's own files."""
    return (resources.files("vitreous.serve") / "page" / name).read_bytes()


def _page(app: FastAPI) -> None:
    """The page's files are read once: there are few and they are small."""

    def route(path: str, name: str) -> None:
        @app.get(path, include_in_schema=False)
        async def file() -> Response:
            return Response(
                page_file(name), media_type=TYPES[name.rsplit(".", 1)[1]], headers={"cache-control": "no-cache"}
            )

    for path, name in FILES.items():
        route(path, name)


def _problems(app: FastAPI) -> None:
    """Every refusal is ``{"error": sentence}``."""

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, problem: AnyHTTPException) -> Response:
        return JSONResponse({"error": problem.detail}, problem.status_code, problem.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 400)

    @app.exception_handler(Exception)
    async def broken(request: Request, problem: Exception) -> Response:
        # the only answer that does not pass the guard
        return JSONResponse({"error": "a bug of ours: the server's log says more"}, 500, HEADERS)
