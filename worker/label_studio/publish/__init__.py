"""Results to Label Studio: each is rendered into a prediction, and reaches it once."""

from worker.label_studio.publish.publisher import Publisher, PublishStats

__all__ = ["PublishStats", "Publisher"]
