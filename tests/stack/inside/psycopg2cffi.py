"""Has the settings of django-celery-results believe that there is a driver for PostgreSQL."""

from __future__ import annotations


class compat:
    @staticmethod
    def register() -> None:
        """There psycopg2 would get a stand-in; Django takes psycopg anyway."""
