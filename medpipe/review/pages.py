"""`/app`: worklist, study and sign-in as pages that the server writes; every value is escaped by the templates."""

from __future__ import annotations

import json
import logging
from urllib.parse import parse_qs

import anyio.to_thread
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

from medpipe.logs import Event, about
from medpipe.review.api import SEARCHED, Question, asked, line_of, small_body
from medpipe.review.guard import COOKIE, SIGN_IN, inside
from medpipe.review.site import Site
from medpipe.review.trail import UNKNOWN_NAME
from medpipe.review.words import ENDED, GROUPS, commands

log = logging.getLogger(__name__)

_templates = Environment(
    loader=PackageLoader("medpipe.review", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters["commands"] = commands
_templates.globals["ended"] = ENDED


async def worklist(request: Request) -> Response:
    """GET /app."""
    answer = await asked(request, Question())
    return _page("worklist.html", request, answer=answer, groups=list(GROUPS), searched=SEARCHED)


async def rows(request: Request) -> Response:
    """POST /app/rows: the lines of the worklist alone, as the form of the page narrows them."""
    fields = await _form(request)
    group = fields.get("group", "")
    if group and group not in GROUPS:
        raise HTTPException(422, "no such group")
    answer = await asked(request, Question(text=fields.get("text", "")[:200], group=group))
    page = _page("rows.html", request, answer=answer)
    page.headers["x-counts"] = json.dumps(answer.counts)
    return page


async def study(request: Request) -> Response:
    """GET /app/studies/{uid}."""
    return _page("study.html", request, line=await line_of(request))


async def study_details(request: Request) -> Response:
    """POST /app/studies/{uid}/details: what of the page changes."""
    return _page("details.html", request, line=await line_of(request))


async def events(request: Request) -> Response:
    """GET /api/events."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    stream = _site(request).changes.stream()
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def sign_in_form(request: Request) -> Response:
    """GET /app/sign-in."""
    target = inside(request.query_params.get("next", "/app"))
    if _site(request).sessions is None or request.scope["user"] is not None:
        return RedirectResponse(target, 303)
    return _page("sign_in.html", request, target=target, fault="")


async def sign_in(request: Request) -> Response:
    """POST /app/sign-in."""
    site = _site(request)
    fields = await _form(request)
    name, target = fields.get("name", ""), inside(fields.get("next", "/app"))
    if site.sessions is None:
        return RedirectResponse(target, 303)
    if site.doorkeeper.must_wait(name):
        known = name if name in site.users else UNKNOWN_NAME
        await site.trail.must_wait(request, known)
        fault = "Too many wrong passwords for this name. Please wait a minute."
        return _page("sign_in.html", request, 429, target=target, fault=fault)
    async with site.one_guess_at_a_time:
        admitted = await anyio.to_thread.run_sync(site.doorkeeper.admits, name, fields.get("password", ""))
    if not admitted:
        known = name if name in site.users else UNKNOWN_NAME
        log.warning("sign-in refused for %r", known, extra=about(Event.SIGN_IN_REFUSED))
        await site.trail.refused(request, known, "name and password do not belong together")
        fault = "Name and password do not belong together."
        return _page("sign_in.html", request, 403, target=target, fault=fault)
    await site.trail.signed_in(request, name)
    log.info("signed in: %s", name, extra=about(Event.SIGNED_IN, person=name))
    answer = RedirectResponse(target, 303)
    answer.set_cookie(
        COOKIE,
        site.sessions.open(name),
        max_age=int(site.settings.session_hours * 3600),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


async def sign_out(request: Request) -> Response:
    """POST /app/sign-out."""
    site = _site(request)
    await site.trail.signed_out(request)
    if site.sessions is not None:
        site.sessions.close(request.cookies.get(COOKIE, ""))
    answer = RedirectResponse(SIGN_IN, 303)
    answer.delete_cookie(COOKIE)
    return answer


async def failed(request: Request, error: Exception) -> Response:
    """An HTTP error as one sentence: JSON under /api and /dicom-web, a page elsewhere."""
    assert isinstance(error, HTTPException)
    if request.url.path.startswith(("/api/", "/dicom-web/")):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    return _page("failed.html", request, error.status_code, sentence=error.detail)


async def database_away(request: Request, error: Exception) -> Response:
    """The registry does not answer: a page that says so, and one line in the log."""
    log.error("the registry does not answer (%s)", type(error).__name__, extra=about(Event.DATABASE_AWAY))
    return await failed(request, HTTPException(503, "The database does not answer. Please try again soon."))


def _page(name: str, request: Request, status: int = 200, **values: object) -> Response:
    site = _site(request)
    text = _templates.get_template(name).render(
        user=request.scope.get("user"),
        viewer_fetched=site.viewer.fetched,
        has_pacs=site.proxy is not None,
        **values,
    )
    return HTMLResponse(text, status)


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form (application/x-www-form-urlencoded). Raises HTTPException 403, 413, 422."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "forms of other sites are not taken")
    body = await small_body(request)
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError as error:
        raise HTTPException(422, "not a form") from error
    return {name: values[-1] for name, values in fields.items()}
