"""What a model's engine is started with otherwise than the settings say, and what follows for digest and signature."""

import hashlib
import json

from pydantic import ValidationError

from control.database.tables import ModelRow
from control.errors import Invalid
from control.models.registration import RegisterRequest
from stepserve.contract import EngineOverrides, Signature
from stepserve.engine_arguments import CHANGES_ANSWERS


def engine_of(row: ModelRow) -> EngineOverrides | None:
    """Raises Invalid for what an earlier version took and this one does not."""
    if not row.engine:
        return None
    try:
        return EngineOverrides.model_validate(row.engine)
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise Invalid(f"engine of {row.id}: {reason}; register it again with another `engine`") from error


def with_its_engine(request: RegisterRequest, present: ModelRow) -> RegisterRequest:
    """A request that names no engine means the one that the model has."""
    if request.engine is not None or not present.engine:
        return request
    return request.model_copy(update={"engine": engine_of(present)})


def engine_digest(digest: str, engine: EngineOverrides | None) -> str:
    """The digest of what answers: some arguments have the same files answer otherwise."""
    changes = {name: value for name, value in engine.args.items() if name in CHANGES_ANSWERS} if engine else {}
    if not changes:
        return digest
    content = f"{digest} engine.args={json.dumps(changes, sort_keys=True)}"
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def engine_signature(signature: Signature, engine: EngineOverrides | None) -> Signature:
    """An engine that was started otherwise cannot take the model in place."""
    if engine is None or not (written := engine.written()):
        return signature
    config = f"{signature.config_sha} engine={json.dumps(written, sort_keys=True)}"
    return signature.model_copy(update={"config_sha": hashlib.sha256(config.encode()).hexdigest()})
