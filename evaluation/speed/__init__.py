"""The speed of the segmenter, its CRF and SAM on this machine, beside a baseline and the floor of the arithmetic."""
