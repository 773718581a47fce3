"""Benchmarks for developers: speed, memory and scale of every part. Users have `car bench`."""
