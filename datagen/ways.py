"""Opens the ways to a run's models: its own, the student, and others that its config names."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from datagen.asking import Scheduler, Ways
from datagen.student import find_student
from stepserve.contract import ModelRef
from stepserve.jobs.batch_scheduler import BatchScheduler, generating
from stepserve.jobs.errors import BadJob, GatewayUnavailable, ModelNotServed, NotFound, ServiceError
from stepserve.jobs.ports import JobContext


@asynccontextmanager
async def opened_ways(context: JobContext, strategy: object, models: Mapping[str, str]) -> AsyncIterator[Ways]:
    """`models`: ids of others, with the field of the config that names each. Raises BadJob naming the field of one that
    cannot be had, and ModelNotServed while there is no room for it.
    """
    async with AsyncExitStack() as stack:

        async def way(model: ModelRef) -> Scheduler:
            scheduler = BatchScheduler(
                generating(context.engine, model),
                chunk_items=context.batch_items,
                window_items=partial(context.window_items, model),
            )
            return await stack.enter_async_context(scheduler)

        student = await find_student(strategy, context)
        others = [(model_id, await _beside(context, model_id, field)) for model_id, field in models.items()]
        yield Ways(
            own=await way(context.model),
            student=None if student is None else await way(student),
            others={model_id: await way(model) for model_id, model in others},
        )


async def _beside(context: JobContext, model_id: str, field: str) -> ModelRef:
    if model_id == context.model.id:
        return context.model
    try:
        return await context.load_beside(model_id)
    except NotFound as error:
        raise BadJob(f"config.{field}: {error}") from error
    except ModelNotServed:
        raise
    except ServiceError as error:
        if type(error) is GatewayUnavailable:  # it says nothing of the model
            raise
        raise BadJob(f"config.{field}: {model_id} cannot be asked: {error}") from error
