"""/models/{id}/files: a checkpoint over HTTP. The gateway writes the bodies where control says."""

from typing import Any

from fastapi import APIRouter

from control.errors import Invalid
from control.registration.uploads.request import BeginUpload, ClosePiece, DeclareFile, OpenPiece, check_file_name
from control.registration.uploads.uploads import Uploads
from control.services import Given
from stepserve.contract import CLOSE_PIECE_PATH, OPEN_PIECE_PATH

router = APIRouter()


@router.get("/models/{model_id}/files")
async def show(model_id: str, uploads: Given[Uploads]) -> dict[str, Any]:
    return await uploads.show(model_id)


@router.post("/models/{model_id}/files")
async def begin(model_id: str, request: BeginUpload, uploads: Given[Uploads]) -> dict[str, Any]:
    return await uploads.begin(model_id, request)


@router.delete("/models/{model_id}/files")
async def discard(model_id: str, uploads: Given[Uploads]) -> dict[str, Any]:
    await uploads.discard(model_id)
    return {"status": "discarded", "id": model_id}


@router.post("/models/{model_id}/files/{name:path}")
async def declare(model_id: str, name: str, request: DeclareFile, uploads: Given[Uploads]) -> dict[str, Any]:
    try:
        check_file_name(name)
    except ValueError as error:
        raise Invalid(str(error)) from error
    return await uploads.declare(model_id, name, request)


@router.post(OPEN_PIECE_PATH)
async def open_piece(request: OpenPiece, uploads: Given[Uploads]) -> dict[str, Any]:
    return await uploads.open(request)


@router.post(CLOSE_PIECE_PATH)
async def close_piece(request: ClosePiece, uploads: Given[Uploads]) -> dict[str, Any]:
    return await uploads.close(request)
