"""What can go wrong in the engine, beside `InvalidInput` and `BundleInvalid` of `services.errors`.

CuelightError
├── OutOfTurn       FAILED_PRECONDITION  a message of the stream came when it could not
├── ModelFault      INTERNAL             the model gave no answer in time, or values that are not finite
└── BackendMissing  FAILED_PRECONDITION  the backend asked for is not installed

Arguments that will not do are ValueError; the service turns those into INVALID_ARGUMENT.
"""

from __future__ import annotations

from services.errors import CuelightError, Status


class OutOfTurn(CuelightError):
    """A message of the stream came when it could not."""

    status = Status.FAILED_PRECONDITION
    reason = "OUT_OF_TURN"


class ModelFault(CuelightError):
    """The model gave no answer in time, or values that are not finite."""

    status = Status.INTERNAL
    reason = "MODEL_FAULT"


class BackendMissing(CuelightError):
    """The backend asked for is not installed."""

    status = Status.FAILED_PRECONDITION
    reason = "BACKEND_MISSING"
