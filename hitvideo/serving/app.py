"""The page's addresses.

    GET /                      the page
    GET /about                 the run, its levels, the defaults and the limits
    POST /drafts               forms.DraftsForm → a ticket
    POST /refinements          {"video": ID} → a ticket: the video with all its levels
    POST /repetitions          {"video": ID} → a ticket: the video drawn once more, and how many of its codes differ
    GET /tickets/ID            how it gets on; DELETE cancels it
    GET /events?ticket=ID…     the same as server-sent events, until all these tickets have ended
    GET /videos/ID.mp4         the video; its tag holds settings and codes, as `hitvideo show` prints them

Errors are {"error": text} with 400 (not as the form says), 404, 413, 429 (the queue is full).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from hitvideo.errors import ConfigError
from hitvideo.generation import plans
from hitvideo.generation.files import slug
from hitvideo.generation.sampling import Sampling
from hitvideo.serving import forms
from hitvideo.serving.desk import MOST_WAITING, Desk, FullError, Ticket, Work
from hitvideo.serving.shelf import Kept
from hitvideo.serving.studio import Studio

T = TypeVar("T")
MOST_BODY, MOST_READ = 16 << 10, 4 << 20
MOST_FOLLOWED, MOST_STREAMS = 32, 64
EVERY = 0.15  # seconds between two looks at a ticket


def build(studio: Studio, desk: Desk, run: str, page: str) -> FastAPI:
    """The application, without its guard. `page`: the HTML."""
    # Its documentation would load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    streams = 0

    def enqueue(work: Work) -> JSONResponse:
        try:
            ticket = desk.add(work, studio.total(work))
        except FullError:
            raise HTTPException(429, f"{MOST_WAITING} others wait already; try again when some are done") from None
        return JSONResponse(desk.status(ticket), 202)

    def ticket_of(name: str) -> Ticket:
        return found(desk.get(name), "no such ticket, or it ended long ago")

    def video_of(name: str) -> Kept:
        return found(studio.shelf.get(name), "no such video, or it was dropped for newer ones; draw it again")

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/about")
    async def about() -> JSONResponse:
        return JSONResponse(_about(studio, run))

    @app.post("/drafts")
    async def drafts(request: Request) -> JSONResponse:
        return enqueue(forms.parse(forms.DraftsForm, await _body(request)).work(studio.generator))

    @app.post("/refinements")
    async def refinements(request: Request) -> JSONResponse:
        video = video_of(forms.parse(forms.VideoForm, await _body(request)).video)
        return enqueue(forms.refinement(video, studio.generator.levels))

    @app.post("/repetitions")
    async def repetitions(request: Request) -> JSONResponse:
        return enqueue(forms.repetition(video_of(forms.parse(forms.VideoForm, await _body(request)).video)))

    @app.get("/tickets/{name}")
    async def ticket(name: str) -> JSONResponse:
        return JSONResponse(desk.status(ticket_of(name)))

    @app.delete("/tickets/{name}")
    async def cancel(name: str) -> JSONResponse:
        desk.cancel(one := ticket_of(name))
        return JSONResponse(desk.status(one))

    @app.get("/events")
    async def events(request: Request) -> Response:
        names = request.query_params.getlist("ticket")
        if not 1 <= len(names) <= MOST_FOLLOWED:
            raise HTTPException(400, f"give 1 to {MOST_FOLLOWED} tickets")
        if streams >= MOST_STREAMS:
            raise HTTPException(429, f"{MOST_STREAMS} pages follow their tickets already; ask for /tickets/ID instead")
        return StreamingResponse(follow([ticket_of(name) for name in names]), media_type="text/event-stream")

    async def follow(tickets: list[Ticket]) -> AsyncIterator[str]:
        nonlocal streams
        streams += 1
        told: dict[str, Any] = {}
        try:
            while True:
                ended = all(one.ended for one in tickets)
                for one in tickets:
                    if told.get(one.name) != (now := desk.status(one)):
                        told[one.name] = now
                        yield f"data: {json.dumps(now)}\n\n"
                if ended:
                    return
                await asyncio.sleep(EVERY)
        finally:
            streams -= 1

    @app.get("/videos/{name}.mp4")
    async def video(name: str) -> Response:
        kept = video_of(name)
        file = f"video{slug(kept.record.prompt)}-seed{kept.record.seed}-levels{len(kept.record.codes)}.mp4"
        return Response(kept.mp4, media_type="video/mp4", headers={"content-disposition": f'attachment; filename="{file}"'})

    @app.exception_handler(ConfigError)
    async def refused(_: Request, error: ConfigError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)

    return app


def found(what: T | None, otherwise: str) -> T:
    """Raises a 404 if it is not there."""
    if what is None:
        raise HTTPException(404, otherwise)
    return what


async def _body(request: Request) -> bytes:
    """The body of a form, which is small. The rest of one that is too large is read and thrown away, since a client that is
    still sending would not read the answer; up to a limit, and then the connection is closed."""
    size, parts = 0, []
    try:
        async for part in request.stream():
            size += len(part)
            if size > MOST_READ:
                break
            if size <= MOST_BODY:
                parts.append(part)
    except ClientDisconnect:
        raise HTTPException(400, "the request ended before its body did") from None
    if size > MOST_BODY:
        text = f"a request has at most {MOST_BODY} bytes; shorten the prompt"
        raise HTTPException(413, text, {"connection": "close"} if size > MOST_READ else None)
    return b"".join(parts)


def _about(studio: Studio, run: str) -> dict[str, Any]:
    generator, defaults = studio.generator, Sampling()
    grids, clip = generator.model.layout.grids, generator.clip
    return {
        "run": run,
        "levels": [{"grid": list(grid), "tokens": grid.cells} for grid in grids],
        "clip": {"frames": clip.frames, "height": clip.height, "width": clip.width, "fps": clip.fps},
        "defaults": {name: getattr(defaults, name) for name in ("guidance", "temperature", "top_k", "top_p", "plan")},
        "plans": plans.offered(generator.model.layout),
        "limits": {"drafts": forms.MOST_DRAFTS, "prompt": forms.LONGEST_PROMPT, "seed": forms.LARGEST_SEED - forms.MOST_DRAFTS},
    }
