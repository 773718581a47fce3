"""What can go wrong at the command line itself. The root is car.errors.CarError.

CarError
├── WrongUse        options that cannot be followed: exit code 2, nothing was done
└── OutputError     a result that could not be written: its file counts as failed
"""

from car.errors import CarError


class WrongUse(CarError):  # noqa: N818 - the name is the sentence
    code = "wrong_use"


class OutputError(CarError):
    code = "output_error"
