"""Masks as Label Studio regions."""
