"""Whether a conditioner fits what a worker performs with: by the manifests of both, before anything is loaded.

A condition means something to the transformer it was trained with and to no other, so the transformer's files must be
the same, and all sizes. It reads no weights.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import PurePosixPath

from services.bundle import Manifest
from services.errors import BundleMismatch

TRANSFORMER = "dit"
"""Files of the transformer have names that begin so."""


def check_fit(conditioner: Manifest, performed: Manifest) -> None:
    """Raises BundleMismatch, which names both, when one bundle's conditioner does not fit the other's transformer."""
    ours, theirs = conditioner.conditioner.get("condition_width"), performed.dit.get("condition_width")
    if None not in (ours, theirs) and ours != theirs:
        raise BundleMismatch(
            f"the conditioner of {_name(conditioner)} makes conditions {ours} wide, "
            f"the transformer of {_name(performed)} takes {theirs}"
        )
    if conditioner is performed:
        return
    for part in ("geometry", "text", "conditioner", "recipe"):
        if getattr(conditioner, part) != getattr(performed, part):
            raise BundleMismatch(
                f"the conditioner of {_name(conditioner)} differs from that of {_name(performed)} "
                f"in its manifest's {part}"
            )
    if _transformer(conditioner) != _transformer(performed):
        raise BundleMismatch(
            f"the conditioner of {_name(conditioner)} is made for the transformer {_transformer(conditioner)}, "
            f"the workers perform with {_transformer(performed)} of {_name(performed)}"
        )


def _name(manifest: Manifest) -> str:
    return f"bundle {manifest.name} {manifest.version} ({manifest.digest[:12]})"


def _transformer(manifest: Manifest) -> str:
    """A short name of the transformer's weights."""
    files = sorted(item for item in manifest.files.items() if PurePosixPath(item[0]).name.startswith(TRANSFORMER))
    return sha256(repr(files).encode()).hexdigest()[:12]
