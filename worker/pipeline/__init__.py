"""The way from claimed items to stored results: claim, fetch, segment, postprocess, store and complete, in parallel."""
