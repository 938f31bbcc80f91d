"""Tasks of a Celery worker. Only who hands over a task imports this file: Celery may be missing."""

from __future__ import annotations

from testproject.celery import app

from . import stock


# At its end, however it ends, what it borrowed goes back to the pool of its worker; poolstatus and
# errors call it shop.tasks.restock[id]. In a transaction call it by transaction.on_commit(): a
# worker must not look for rows that are not there yet.
@app.task
def restock(below: int = stock.FEW, units: int = stock.UNITS) -> int:
    return stock.restock(below, units)
