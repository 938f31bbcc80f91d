"""A package's own settings for its tests, with our server and the engine at hand."""

from __future__ import annotations

from importlib import import_module

from connpool_stack_site import CHOSEN, changes

_theirs = vars(import_module(CHOSEN["theirs"]))
_theirs = {name: value for name, value in _theirs.items() if name.isupper()}
globals().update({**_theirs, **changes(_theirs)})
TEST_RUNNER = "connpool_suite_recorder.Recorder"
