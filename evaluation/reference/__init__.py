"""Plain counterparts of the segmenter's fast paths: what they are tested against and timed beside."""
