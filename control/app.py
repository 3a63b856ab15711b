"""Control's composition root: the one place where its parts are put together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware

import stepserve
from control.access.audit_log import AuditLog
from control.access.audited import Audited
from control.access.dataset_owners import DatasetOwners
from control.access.key_book import KeyBook
from control.access.usage_book import UsageBook
from control.access.view import Isolation
from control.activation.activator import Activator
from control.activation.reconciler import PollIntervals, Reconciler
from control.batches.files import FileStore
from control.batches.kind import BatchKind
from control.checkpoints.chat_templates import check_given
from control.checkpoints.digest_cache import DigestCache
from control.checkpoints.quantisation import QuantizeWish
from control.database.database import Database, url_of
from control.errors import ServiceError
from control.fleet.bringing import Bringer
from control.fleet.files import ModelFiles
from control.fleet.job_loading import FleetLoading
from control.fleet.job_members import JobMembers
from control.fleet.job_share import JobShare
from control.fleet.keeper import Keeper
from control.fleet.kept_versions import KeptVersions
from control.fleet.local import LocalMember
from control.fleet.member_book import MemberBook
from control.fleet.members import Members
from control.fleet.pace import Pace
from control.fleet.rollout_book import RolloutBook
from control.fleet.rollouts import Rollouts
from control.gateway_client import GatewayClient
from control.inference import InferenceKind
from control.jobs.attempt import AttemptBuilder
from control.jobs.disk_guard import DiskGuard
from control.jobs.ending import FIRST_BACKOFF_S
from control.jobs.engine_borrow import ActivatorSwitcher, EngineBorrows
from control.jobs.eval_imports import EvalImports
from control.jobs.limits import RunnerLimits, Window
from control.jobs.queue import JobQueue
from control.jobs.reaper import Reaper
from control.jobs.runner import JobRunner
from control.jobs.submission import JobSubmission
from control.json_bound import JsonBound
from control.models.activation_log import ActivationLog
from control.models.aliases import Aliases
from control.models.capabilities import EngineAbilities
from control.models.eval_history import EvalHistory
from control.models.listing import ModelListing
from control.models.loading import Loading
from control.models.placed_folders import PlacedFolders
from control.models.reference_maker import ReferenceMaker
from control.models.references import Compute, References
from control.models.registry import Registry
from control.models.repository import ModelRepository
from control.models.template_notes import note_templates
from control.notifications.notifier import Notifier
from control.notifications.outbox import Outbox
from control.notifications.targets import Targets
from control.policies.book import PolicyBook
from control.policies.runner import PolicyRunner
from control.policies.steps import Steps
from control.power.choices import PowerChoices
from control.power.governor import Governor
from control.promotion.canary import CanaryBoard
from control.promotion.kind import PromotionKind
from control.promotion.submission import PromotionDesk
from control.pull.hub import Hub
from control.pull.kind import PullKind
from control.registration.bootstrap import bootstrap
from control.registration.registrar import Registrar
from control.registration.uploads.uploads import Uploads
from control.responses.conversations import Conversations
from control.responses.room import Room
from control.responses.store import ResponseStore
from control.routes import (
    activations,
    batches,
    conversations,
    data_gen,
    errors,
    health,
    jobs,
    keys,
    kinds,
    loadable,
    logs,
    metrics,
    models,
    policies,
    promotions,
    pull,
    pushes,
    shards,
    stored_responses,
    traffic,
    webhooks,
)
from control.routes import files as file_routes
from control.routes import fleet as fleet_routes
from control.routes import history as history_routes
from control.routes import telemetry as machine
from control.routes import uploads as uploads_routes
from control.routes.job_display import JobDisplay
from control.routes.job_intake import JobIntake
from control.routes.job_references import JobReferences
from control.services import Services
from control.shards.book import ShardBook
from control.shards.inbox import ShardInbox
from control.tasks import Tasks
from control.telemetry.cards import CardReader
from control.telemetry.history import History
from control.telemetry.nvml import Nvml
from control.telemetry.telemetry import Telemetry
from control.traffic.consents import Consents
from control.traffic.store import TrafficStore
from evals.judge import AllowedJudges
from evals.kind import EvalKind
from stepserve.alias_book import AliasBook
from stepserve.heartbeat import beat, stood_still
from stepserve.jobs.eval_ports import EvalReports
from stepserve.jobs.ports import JobKind
from stepserve.loop_lag import LoopLag
from stepserve.request_id import Traced
from stepserve.settings import Settings
from stepserve.unix_http import expect_late_readiness

DIGEST_CACHE_NAME = ".digests.json"
DEFAULT_POLL_INTERVALS = PollIntervals()


def create_app(
    settings: Settings,
    job_kinds: Sequence[JobKind],
    *,
    more_routes: Sequence[APIRouter] = (),
    pace: PollIntervals = DEFAULT_POLL_INTERVALS,
    job_poll_s: float = 1.0,
    job_backoff_s: float = FIRST_BACKOFF_S,
    compute_reference: Compute | None = None,
    card_reader: CardReader | None = None,
    eval_reports: EvalReports | None = None,
    notify_every_s: float = 2.0,
    policies_every_s: float = 2.0,
    history_every_s: float = 1.0,
) -> FastAPI:
    """The application; its lifespan opens the database, migrates it, and runs the reconciler and the runner.

    A start that is refused leaves the reason, one sentence, in `app.state.refusal`.
    """
    files = FileStore(settings.layout, settings.max_file_bytes)
    batch_kind = BatchKind(files, settings.max_sequences_per_request)
    judges = AllowedJudges(settings.judge_urls, settings.judge_api_keys)
    job_kinds = [*job_kinds, InferenceKind(), batch_kind]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        expect_late_readiness(asyncio.get_running_loop())
        layout = settings.layout
        layout.create()
        async with AsyncExitStack() as stack:
            database = Database(url_of(settings))
            stack.push_async_callback(database.close)
            gateway = GatewayClient.at_socket(layout.gateway_socket)
            stack.push_async_callback(gateway.close)

            telemetry = Telemetry(card_reader or Nvml(), gateway, settings)
            placed = PlacedFolders(layout.models, database)
            repository = ModelRepository(database, placed)
            history = ActivationLog(database)
            cache = DigestCache(layout.base / DIGEST_CACHE_NAME)
            references = References(
                layout.references,
                compute_reference or ReferenceMaker(cache).compute,
                compute_max_bytes=settings.proof_compute_max_bytes,
            )
            abilities = EngineAbilities(gateway)
            aliases = Aliases(AliasBook(settings.aliases, layout.aliases))
            registry = Registry(layout, repository, history, cache, references, abilities, placed, aliases, settings)
            try:
                if registry.templates.default is not None:
                    await asyncio.to_thread(check_given, "default_chat_template", registry.templates.default)
                await database.migrate()
                await placed.finish()
                await bootstrap(
                    layout,
                    repository,
                    registry,
                    history,
                    placed,
                    install_demo=settings.install_demo,
                    model_path=settings.model_path,
                    quantize=await _quantize_of(settings, abilities),
                )
            except ServiceError as error:
                app.state.refusal = str(error)
                raise

            def switched() -> None:
                reconciler.poke()
                runner.wake(model_changed=True)

            members = Members(MemberBook(database), settings.fleet)
            stack.push_async_callback(members.close)
            await members.open(settings.replicas.is_former)
            model_files = ModelFiles(repository)
            versions = KeptVersions(layout)
            bringer = Bringer(registry, references, model_files, versions, members)
            rollouts = Rollouts(RolloutBook(database), members, bringer, settings.fleet.step_timeout_s)
            await rollouts.open()
            activator = Activator(
                registry,
                history,
                gateway,
                references,
                rollouts,
                versions,
                on_change=switched,
                proof_wait_s=settings.proof_wait_s,
            )
            keeper = Keeper(members, rollouts, bringer, history, activator.adopt, every_s=pace.in_step_s)
            loading = Loading(registry, references, gateway)
            uploads = Uploads(layout.uploads, placed, cache, repository.folders)
            await asyncio.to_thread(uploads.forget_old)
            registrar = Registrar(
                layout, registry, repository, history, activator, uploads, placed, settings.moving_ids
            )
            switcher = ActivatorSwitcher(activator)
            pulls = PullKind(
                layout.models,
                registry,
                activator,
                abilities,
                placed,
                Hub(settings.hf_token, settings.hub_timeout_s, settings.hub_hosts),
                trust_remote_code=settings.engine.trust_remote_code,
                spare_bytes=settings.min_free_disk_bytes,
            )
            queue = JobQueue(database, settings.job_lease_s)
            limits = RunnerLimits(
                max_concurrent_jobs=settings.max_concurrent_jobs,
                batch_items=settings.batch_items,
                window=Window(settings.engine.max_num_seqs, settings.batch_items, settings.batch_window_items),
                lease_s=settings.job_lease_s,
                poll_s=job_poll_s,
                backoff_s=job_backoff_s,
                max_concurrent_by_type=settings.max_concurrent_by_type,
                retries=settings.job_retries,
                max_standalone=settings.max_concurrent_pulls,
            )
            beside = FleetLoading(loading, bringer, members)
            stack.push_async_callback(beside.close)
            share = JobShare(
                beside,
                bringer,
                members,
                settings.fleet.job_share,
                is_wanted=queue.has_live,
                is_switching=lambda: activator.target is not None,
                every_s=pace.in_step_s,
            )
            canaries = CanaryBoard()
            promotion_kind = PromotionKind(judges, loading, activator, gateway, canaries, layout.runs)
            runner = JobRunner(
                kinds={kind.type: kind for kind in job_kinds} | {PromotionKind.type: promotion_kind},
                standalone={PullKind.type: pulls},
                queue=queue,
                attempts=AttemptBuilder(
                    queue=queue,
                    models=repository,
                    engine=gateway,
                    fleet=JobMembers(members),
                    layout=layout,
                    limits=limits,
                    shards=ShardBook(database),
                    loader=beside,
                    meter=telemetry.of_job,
                ),
                switcher=switcher,
                reaper=Reaper(queue, EngineBorrows(database), switcher, settings.job_lease_s, frozen_pid=stood_still()),
                loader=share,
                limits=limits,
            )
            written = (layout.base, layout.runs)
            guard = DiskGuard(
                dict.fromkeys(runner.types, written) | {PullKind.type: (*written, layout.models)},
                settings.min_free_disk_bytes,
                runner,
            )
            governor = Governor(settings, PowerChoices(database), telemetry.cards, runner)

            key_book = KeyBook(database, gateway.tell_keys, admin_elsewhere=settings.access.admin_key is not None)
            await key_book.tell()
            reconciler = Reconciler(activator, history, gateway, rollouts, pace)
            background = Tasks()
            lag = LoopLag()
            background.spawn(lag.run(), name="loop lag")
            background.spawn(telemetry.run(), name="processor load")
            measured = History(database, gateway, telemetry, history_every_s)
            background.spawn(measured.run(), name="history")
            background.spawn(beat(), name="heartbeat")
            background.spawn(reconciler.run(), name="reconciler")
            background.spawn(keeper.run(), name="fleet keeper")
            background.spawn(share.run(), name="share for jobs")
            background.spawn(references.run(), name="references")
            background.spawn(note_templates(repository), name="chat templates")
            await governor.start(background)
            background.spawn(abilities.learn(), name="engine abilities")
            await guard.look()
            background.spawn(guard.run(), name="disk guard")
            active = await history.active()
            if active is not None:
                await registry.want_reference(active.id)
            stack.push_async_callback(activator.close)
            stack.push_async_callback(background.close)
            stack.push_async_callback(runner.stop)
            await runner.start()
            submission = JobSubmission(database, settings.max_pending_jobs)
            outbox, targets = Outbox(database), Targets(settings.webhook_hosts, layout.trackers)
            inbox = ShardInbox(database)
            room = Room(database, settings.stored_responses)
            background.spawn(room.run(), name="retention of responses")
            consents = Consents(database, settings.traffic)
            await consents.note_settings()
            kept_traffic = TrafficStore(database, consents, settings.traffic)
            background.spawn(kept_traffic.run(), name="retention of traffic")
            talks = Conversations(database, room)
            evals = EvalHistory(database, layout.eval_runs)
            owners = DatasetOwners(layout.datasets)
            notifier = Notifier(outbox, targets, gateway, evals, eval_reports, notify_every_s)
            background.spawn(notifier.run(), name="notifier")
            job_references = JobReferences(layout, queue, owners, evals, files, inbox)
            desk = PromotionDesk(
                database,
                registry,
                repository,
                history,
                evals,
                EvalKind(judges, settings.max_sequences_per_request),
                layout.datasets,
            )
            intake = JobIntake(layout, registry, job_references, submission, runner, desk)
            policy_book, steps = PolicyBook(database), Steps(job_kinds, intake, desk, registry, layout.datasets)
            policy_runner = PolicyRunner(policy_book, steps, repository, queue, policies_every_s)
            background.spawn(policy_runner.run(), name="policies")
            app.state.services = Services(
                activator,
                aliases,
                AuditLog(database),
                batch_kind,
                canaries,
                consents,
                evals,
                EvalImports(database, repository, layout.eval_runs),
                files,
                gateway,
                governor,
                history,
                inbox,
                kept_traffic,
                settings.traffic,
                Isolation(settings.access.isolate_keys),
                JobDisplay(queue, runner, history, activator),
                intake,
                job_references,
                key_book,
                lag,
                layout,
                loading,
                LocalMember(gateway, members, settings.fleet),
                measured,
                members,
                model_files,
                ModelListing(repository, registry, history, abilities),
                notifier,
                outbox,
                owners,
                Pace(settings.fleet.send_bytes_per_s),
                policy_book,
                queue,
                registrar,
                registry,
                repository,
                rollouts,
                runner,
                steps,
                ResponseStore(database, talks, room),
                submission,
                talks,
                targets,
                telemetry,
                uploads,
                UsageBook(database),
            )
            yield

    app = FastAPI(
        title="Stepserve control",
        version=stepserve.__version__,
        lifespan=lifespan,
        docs_url=None,
        middleware=[Middleware(Traced), Middleware(JsonBound), Middleware(Audited)],  # who notes reads the body too
    )
    app.state.refusal = None
    _add_routes(app, job_kinds, more_routes)
    return app


def _add_routes(app: FastAPI, job_kinds: Sequence[JobKind], more_routes: Sequence[APIRouter]) -> None:
    errors.install(app)
    own = (
        health,
        loadable,
        activations,
        uploads_routes,
        models,
        jobs,
        shards,
        data_gen,
        machine,
        history_routes,
        logs,
        metrics,
        pull,
        keys,
        file_routes,
        batches,
        webhooks,
        promotions,
        policies,
        fleet_routes,
        pushes,
        stored_responses,
        conversations,
        traffic,
    )
    for router in (*(routes.router for routes in own), *more_routes, *map(kinds.router_of, job_kinds)):
        app.router.routes.extend(router.routes)  # as they are: `include_router` would build each once more


async def _quantize_of(settings: Settings, abilities: EngineAbilities) -> QuantizeWish:
    """What `--load-in-4bit` or `--load-in-8bit` ask for; the gateway starts beside us and is waited for."""
    if settings.model_path is None or not (settings.load_in_4bit or settings.load_in_8bit):
        return "no"
    await abilities.learn()
    return "q4" if settings.load_in_4bit else "q8"
