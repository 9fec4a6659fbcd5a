"""The cast: characters of the bundle and their portraits.

It knows the bundle's manifest and no session.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from services.bundle import Bundle, Character

_PICTURE_LIFE = "public, max-age=3600"


def cast_routes(bundle: Bundle) -> list[BaseRoute]:
    """`/api/characters`, which also says whether prompts change the picture, and one portrait for each of them."""

    async def characters(_: Request) -> Response:
        manifest = bundle.manifest
        cast = [_shown(found) for found in manifest.characters]
        return JSONResponse({"bundle": manifest.name, "characters": cast, "readsPrompts": manifest.prompt is not None})

    async def portrait(request: Request) -> Response:
        name = request.path_params["name"]
        for character in bundle.manifest.characters:
            if character.name == name:
                return FileResponse(bundle.file(character.portrait), headers={"Cache-Control": _PICTURE_LIFE})
        raise HTTPException(404, f"there is no character called {name[:60]!r}")

    return [
        Route("/api/characters", characters),
        Route("/api/characters/{name}/portrait", portrait),
    ]


def _shown(character: Character) -> dict[str, str]:
    return {
        "name": character.name,
        "title": character.name.replace("-", " ").title(),
        "description": character.description,
        "portrait": f"/api/characters/{character.name}/portrait",
    }
