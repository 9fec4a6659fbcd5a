"""The operator's limits, from the settings."""

from __future__ import annotations

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
