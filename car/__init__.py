"""The domain's types and pure functions, shared by all packages; no torch, no database, no web."""
