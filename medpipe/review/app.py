"""The review as one ASGI application: OHIF at the root, our pages under /app, /api, /dicom-web, and probes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from medpipe.config import Config
from medpipe.review import api, pages
from medpipe.review.dicomweb import question_of, studies_of
from medpipe.review.guard import SIGN_IN, Guard
from medpipe.review.metrics import CONTENT_TYPE
from medpipe.review.site import Site

STATIC = Path(__file__).parent / "static"


def create_app(config: Config) -> Starlette:
    """The application of one site. Its lifespan must run (a server's or a test client's) for live updates."""
    site = Site(config)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with site.running():
            yield

    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/app", pages.worklist),
            Route("/app/", to_worklist),
            Route("/app/rows", pages.rows, methods=["POST"]),
            Route("/app/studies/{uid}", pages.study),
            Route("/app/studies/{uid}/details", pages.study_details, methods=["POST"]),
            Route(SIGN_IN, pages.sign_in_form, methods=["GET"]),
            Route(SIGN_IN, pages.sign_in, methods=["POST"]),
            Route("/app/sign-out", pages.sign_out, methods=["POST"]),
            Mount("/app/static", StaticFiles(directory=STATIC)),
            Route("/api/search", api.search, methods=["POST"]),
            Route("/api/studies/{uid}", api.one_study),
            Route("/api/me", api.me),
            Route("/api/events", pages.events),
            Route("/api/openapi.json", api.openapi),
            Route("/dicom-web/{path:path}", dicomweb),
            Route("/{path:path}", viewer),
        ],
        middleware=[Middleware(Guard, sessions=site.sessions)],
        exception_handlers={HTTPException: pages.failed, SQLAlchemyError: pages.database_away},
        lifespan=lifespan,
    )
    app.state.site = site
    return app


async def to_worklist(request: Request) -> Response:
    return RedirectResponse("/app", 307)


async def healthz(request: Request) -> Response:
    """The process runs."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """Whether database and PACS answer: 200, or 503 and which does not."""
    shortcomings = await request.app.state.site.shortcomings()
    return JSONResponse({"ready": not shortcomings, **shortcomings}, 503 if shortcomings else 200)


async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    text = await anyio.to_thread.run_sync(request.app.state.site.metrics.text)
    return Response(text, media_type=CONTENT_TYPE)


async def dicomweb(request: Request) -> Response:
    """GET /dicom-web/..."""
    proxy = request.app.state.site.proxy
    if proxy is None:
        raise HTTPException(404, "no peer has `dicomweb` in the settings")
    trail, studies = request.app.state.site.trail, studies_of(request)
    for uid in studies or ():
        await trail.opened(request, uid)
    if studies == []:
        await trail.asked_archive(request, *request.app.state.site.titles, question_of(request))
    answer: Response = await proxy(request)
    return answer


async def viewer(request: Request) -> Response:
    """Everything else is OHIF's."""
    answer: Response = await request.app.state.site.viewer(request)
    return answer
