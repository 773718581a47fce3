"""The embedded engines: PostgreSQL, Redis and an S3 server from wheels, without root, Docker or configuration.

They are the same servers as in production, so there is one code path and one SQL dialect.
"""

from cli.embedded.engines import ALL, Engines, start_engines

__all__ = ["ALL", "Engines", "start_engines"]
