"""What the pools of the running processes are doing, asked from outside.

Each process that has pools answers on a Unix socket (`server`); `collect` asks all of them.
"""

from __future__ import annotations
