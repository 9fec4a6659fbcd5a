"""The fleet controller as a process: settings in, one controller that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from services.errors import CuelightError
from services.fleet.cluster import Cluster
from services.fleet.controller import Controller, Tools
from services.fleet.election import Election
from services.fleet.figures import FleetFigures
from services.fleet.limits import names_of, policy_of
from services.metrics import Metrics
from services.serving import RpcServer, ServingOptions, internal_certificates
from services.settings import FleetSettings
from services.state.demand import DemandStore

START_FAULTS = (ConfigException, CuelightError, OSError)


@contextlib.asynccontextmanager
async def api_client() -> AsyncIterator[ApiClient]:
    """A client of the API server: the pod's own account, or what kubectl uses. Raises ConfigException."""
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException:
        await load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    async with ApiClient(configuration) as api:
        yield api


async def serve(settings: FleetSettings) -> None:
    """Run until told to stop. Raises one of START_FAULTS when it cannot start."""
    logging.getLogger("kubernetes").setLevel(logging.WARNING)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(api_client())
        store = DemandStore.connect(settings.redis_url, call_timeout_s=settings.redis_call_timeout_ms / 1000)
        await stack.enter_async_context(store)
        metrics = Metrics("fleet")
        stack.callback(metrics.close)
        if settings.metrics_listen:
            metrics.serve(settings.metrics_listen)
        tools = Tools(
            clusters=tuple(Cluster(api, names) for names in names_of(settings)),
            store=store,
            election=Election(
                api, settings.fleet_namespace, settings.fleet_lease, settings.fleet_identity, time.monotonic
            ),
            figures=FleetFigures(metrics),
            certificates=internal_certificates(settings),
            scales=settings.fleet_scales,
        )
        server = RpcServer(settings.health_listen or "127.0.0.1:0", ServingOptions(has_reflection=False, drain_s=0))
        await server.start()
        await server.set_ready(is_ready=True)
        metrics.ready.set(1)
        server.announce()
        async with asyncio.TaskGroup() as group:
            controller = Controller(tools, policy_of(settings))
            running = group.create_task(controller.run(settings.fleet_look_s), name="controller")

            async def stop() -> None:
                running.cancel()
                await asyncio.wait({running})

            await server.run_until_signal(stop)
