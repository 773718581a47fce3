"""What can go wrong between `car label-studio` and Label Studio. The root is car.errors.CarError.

CarError
├── BackendBlocked     Label Studio's SSRF protection does not let it call this service
└── BackendRefused     Label Studio asked this service and was not content with its answer
"""

from car.errors import CarError


class BackendBlockedError(CarError):
    code = "backend_blocked"


class BackendRefusedError(CarError):
    code = "backend_refused"
