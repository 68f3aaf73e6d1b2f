"""`/api`: what the pages show, as JSON, and its OpenAPI description, made from the very types of the answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from medpipe import __version__
from medpipe.identity import is_uid
from medpipe.review.people import Person
from medpipe.review.site import Site
from medpipe.review.words import GROUPS
from medpipe.review.worklist import Study

_LARGEST_QUESTION = 10_000
SEARCHED = 500
"""How many of the newest studies a search looks through."""


class Question(BaseModel):
    """A search. It is posted, since a name in an address would end up in logs."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(
        default="", max_length=200, description="words of name, id, date, accession number or UID"
    )
    group: str = Field(default="", description=f"empty for all, or one of: {', '.join(GROUPS)}")
    limit: int = Field(default=100, ge=1, le=SEARCHED)


class Line(BaseModel):
    """One study with the person it is of."""

    study: Study
    person: Person


class Answer(BaseModel):
    """The studies that were found, those received last first; `more` says that there are others.

    `counts`: how many studies are under way and failed, whatever the search.
    """

    lines: list[Line]
    more: bool
    counts: dict[str, int]


async def find(site: Site, question: Question) -> Answer:
    """The worklist as a search narrows it. Raises HTTPException 422 for a group that is none."""
    if question.group and question.group not in GROUPS:
        raise HTTPException(422, f"group: one of {', '.join(GROUPS)}")
    wanted = question.limit + 1 if not question.text.strip() else SEARCHED
    studies = await site.studies(question.group or None, wanted)
    text = question.text.strip()
    if is_uid(text):  # an old study too
        one = await site.study(text)
        studies = [one] if one is not None else []
    people = await site.people.of(study.study_uid for study in studies)
    lines = [Line(study=study, person=people[study.study_uid]) for study in studies]
    if text:
        lines = [line for line in lines if text in line.study.study_uid or line.person.matches(text)]
    counts = await site.counts()
    return Answer(lines=lines[: question.limit], more=len(lines) > question.limit, counts=counts)


async def asked(request: Request, question: Question) -> Answer:
    """`find` for somebody, who is recorded before the answer is given. Raises SQLAlchemyError where that fails."""
    site: Site = request.app.state.site
    answer = await find(site, question)
    await site.trail.searched(request, question.text, question.group, len(answer.lines))
    return answer


async def search(request: Request) -> Response:
    """POST /api/search."""
    body = await small_body(request)
    try:
        question = Question.model_validate_json(body or b"{}")
    except ValidationError as error:
        fault = error.errors()[0]
        raise HTTPException(422, f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    return _json(await asked(request, question))


async def one_study(request: Request) -> Response:
    """GET /api/studies/{uid}."""
    return _json(await line_of(request))


async def line_of(request: Request) -> Line:
    """The study that an address names; that it is opened is recorded. Raises HTTPException 404, SQLAlchemyError."""
    site: Site = request.app.state.site
    uid = request.path_params["uid"]
    study = await site.study(uid) if is_uid(uid) else None
    if study is None:
        raise HTTPException(404, "no such study has been received")
    await site.trail.opened(request, uid)
    return Line(study=study, person=(await site.people.of([uid]))[uid])


async def me(request: Request) -> Response:
    """GET /api/me."""
    return JSONResponse({"user": request.scope["user"]})


async def small_body(request: Request) -> bytes:
    """A request's body, if it is no longer than a question may be. Raises HTTPException 413."""
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > _LARGEST_QUESTION:
            raise HTTPException(413, "too much")
    return body


def _json(model: BaseModel) -> Response:
    return Response(model.model_dump_json(), media_type="application/json")


async def openapi(request: Request) -> Response:
    """GET /api/openapi.json."""
    return JSONResponse(description())


def description() -> dict[str, Any]:
    """The OpenAPI 3.1 description of what is served under /api."""
    place = "#/components/schemas/{model}"
    kinds: list[Any] = [(Question, "validation"), (Answer, "serialization"), (Line, "serialization")]
    _, schemas = models_json_schema(kinds, ref_template=place)
    uid = {"name": "uid", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "medpipe review", "version": __version__, "description": "Read only. Times are UTC."},
        "paths": {
            "/api/search": {"post": _operation("The worklist, narrowed", Answer, body=Question)},
            "/api/studies/{uid}": {"get": _operation("One study", Line) | {"parameters": [uid]}},
            "/api/me": {"get": {"summary": "Who is signed in", "responses": {"200": {"description": "user or null"}}}},
            "/api/events": {
                "get": {
                    "summary": "Server-sent events: `changed` whenever the worklist may look different",
                    "responses": {"200": {"description": "a stream", "content": {"text/event-stream": {}}}},
                }
            },
        },
        "components": {"schemas": schemas["$defs"]},
    }  # fmt: skip


def _operation(summary: str, answer: type[BaseModel], body: type[BaseModel] | None = None) -> dict[str, Any]:
    def content(model: type[BaseModel]) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}

    said: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": content(answer)},
            "401": {"description": "not signed in"},
            "404": {"description": "no such study"},
            "422": {"description": "a wrong question"},
        },
    }
    if body is not None:
        said["requestBody"] = {"content": content(body)}
    return said
