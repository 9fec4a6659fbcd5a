"""What can go wrong in the engine, beside `InvalidInput` and `BundleInvalid` of `services.errors`.

CuelightError
├── BackendMissing UNAVAILABLE       the backend asked for is not installed
├── OutOfTurn   FAILED_PRECONDITION  a message of the stream came when it could not
└── ModelFault  INTERNAL             the model answered with values that are not finite

Arguments that will not do are ValueError; the service turns those into INVALID_ARGUMENT.
"""

from __future__ import annotations

from services.errors import CuelightError, Status


class OutOfTurn(CuelightError):
    """A message of the stream came when it could not."""

    status = Status.FAILED_PRECONDITION
    reason = "OUT_OF_TURN"


class ModelFault(CuelightError):
    """The model answered with values that are not finite."""

    status = Status.INTERNAL
    reason = "MODEL_FAULT"


class BackendMissing(CuelightError):
    """The backend asked for is not installed."""

    status = Status.UNAVAILABLE
    reason = "BACKEND_MISSING"
