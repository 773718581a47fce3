"""Where the repository is, and the golden cases, which are not part of it."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = Path(os.environ.get("CAR_GOLDEN_DIR", ROOT.parent / "shared" / "golden"))
