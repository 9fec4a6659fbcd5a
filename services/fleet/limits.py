"""What the operator wants, from the settings: limits, and what they are for."""

from __future__ import annotations

from services.fleet.cluster import Names
from services.fleet.decision import FleetPolicy
from services.settings import FleetSettings


def policy_of(settings: FleetSettings) -> FleetPolicy:
    """What the settings say of numbers."""
    return FleetPolicy(
        min_workers=settings.fleet_min_workers,
        max_workers=settings.fleet_max_workers,
        buffer_slots=settings.fleet_buffer_slots,
        slots_per_worker=settings.fleet_slots_per_worker,
        cool_down_s=settings.fleet_cool_down_s,
        stale_s=settings.fleet_stale_s,
        min_orchestrators=settings.fleet_min_orchestrators,
        max_orchestrators=settings.fleet_max_orchestrators,
        condition_target_s=settings.fleet_condition_target_ms / 1000,
    )


def names_of(settings: FleetSettings) -> tuple[Names, ...]:
    """What the settings make the controller responsible for, the present version first."""
    present = {settings.fleet_workers: settings.fleet_orchestrators}
    return tuple(
        Names(
            settings.fleet_namespace,
            workers,
            orchestrators,
            watches_nodes=settings.fleet_watches_nodes,
            is_previous=workers != settings.fleet_workers,
        )
        for workers, orchestrators in (present | settings.fleet_previous | present).items()
    )
