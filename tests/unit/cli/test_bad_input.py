"""Whatever a user types, a command ends with a sentence and an exit code, and never with a traceback."""

import pytest
from typer.testing import CliRunner

from cli.main import app

WRONG = [
    ["jobs", "create"],
    ["jobs", "create", "--source", "s3://", "--labels", "a"],
    ["jobs", "create", "--source", "s3://b/p", "--labels", ""],
    ["jobs", "create", "--source", "s3://b/p", "--labels-file", "/no/such/file"],
    ["jobs", "create", "--source", "s3://b/p", "--labels-file", "/"],
    ["jobs", "create", "--source", "s3://b/p", "--labels", "a", "--set", "theta"],
    ["jobs", "create", "--manifest", "/no/such/manifest", "--labels", "a"],
    ["jobs", "create", "--upload", "/no/such/folder", "--labels", "a"],
    ["jobs", "create", "--upload", "/dev/null", "--labels", "a"],
    ["jobs", "show", "../../etc/passwd"],
    ["jobs", "show", "\x1b[31m"],
    ["jobs", "list", "--limit", "0"],
    ["jobs", "list", "--format", "xml"],
    ["jobs", "list", "--data-dir", "/no/such/folder"],
    ["jobs", "list", "--data-dir", "/dev/null"],
    ["results", "show", ""],
    ["results", "list", "--min-score", "high"],
    ["results", "masks", "x", "/dev/null/masks"],
    ["results", "list", "--image", "/no/such/image.png"],
    ["keys", "create", "me", "--expires", "soon"],
    ["keys", "create", "me", "--scope", "root"],
    ["keys", "revoke", "nobody"],
    ["models", "convert", "/no/such/file"],
    ["recipes", "show", "nobody"],
    ["env", "--data-dir", "/no/such/folder"],
    ["doctor", "--data-dir", "/no/such/folder"],
    ["label-studio", "connect", "--project", "0"],
    ["label-studio", "connect", "--project", "1", "--label-studio-url", "nowhere"],
    ["label-studio", "status", "--project", "1", "--tasks", "odd"],
    ["label-studio", "backfill", "--project", "x"],
    ["up", "--port", "99999999"],
    ["up", "--data-dir", "/dev/null/x", "--port", "1"],
    ["worker", "--queues", "cpu"],
    ["segment"],
    ["segment", "/no/such/file.png"],
    ["segment", "tests", "--labels", "a"],
    ["segment", "demo/images/alpha.png", "--models", "/no/such/models", "--labels", "a"],
    ["segment", "demo/images/alpha.png", "--labels", "a,a"],
    ["segment", "demo/images/alpha.png", "--preset", "nobody", "--labels", "a"],
    ["segment", "demo/images/alpha.png", "--overlay", "/dev/null/x/y.png", "--labels", "a"],
    ["evaluate", "nobody"],
    ["bench", "nobody"],
    ["no-such-command"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_input_ends_in_words(arguments, monkeypatch, tmp_path):
    for name in ("DATABASE_URL", "CAR_API_URL", "CAR_API_KEY", "S3_BUCKET", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    if "--data-dir" not in arguments and arguments[0] in ("jobs", "results", "keys", "label-studio", "env", "doctor"):
        arguments = [*arguments, "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.stderr.strip(), "it says why"
    assert "Traceback" not in result.output
