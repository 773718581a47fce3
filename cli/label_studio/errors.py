"""Errors between `car label-studio` and Label Studio. The root is car.errors.CarError.

CarError
├── BackendBlockedError   Label Studio's SSRF protection does not let it call this service
└── BackendRefusedError   Label Studio called this service and rejected its response
"""

from car.errors import CarError


class BackendBlockedError(CarError):
    code = "backend_blocked"


class BackendRefusedError(CarError):
    code = "backend_refused"
