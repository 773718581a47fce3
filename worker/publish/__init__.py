"""Results to Label Studio: each is rendered into a prediction, and reaches it once."""

from worker.publish.publisher import Published, Publisher

__all__ = ["Published", "Publisher"]
