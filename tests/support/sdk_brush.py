"""The run lengths of Label Studio's SDK. It takes seconds to import, so the first test that needs it loads it."""

import importlib
import warnings


def __getattr__(name):
    with warnings.catch_warnings(action="ignore"):  # the SDK's own
        return getattr(importlib.import_module("label_studio_sdk.converter.brush"), name)
