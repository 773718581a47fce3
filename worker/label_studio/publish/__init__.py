"""Send results to Label Studio: each is rendered into a prediction and stored there once."""

from worker.label_studio.publish.publisher import Publisher, PublishStats

__all__ = ["PublishStats", "Publisher"]
