"""The commands of `car`."""
