"""A story of one minute: the shop under load with three kinds of connections. `manage.py demo`."""

from __future__ import annotations
