"""Functions on the server that give state to a session, where no statement shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .pool.statements import DIRT, SEQUENCES, Judge, bare

# Those of a database's own: not PostgreSQL's, and not those that come with an extension.
_QUERY = """
SELECT n.nspname || '.' || p.proname, COALESCE(pg_get_function_sqlbody(p.oid), p.prosrc)
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
WHERE l.lanname IN ('sql', 'plpgsql')
AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_temp%'
AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend AS d
    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
)
ORDER BY 1
"""
# Statements that give state to a session, where a body of SQL or PL/pgSQL has its statements.
_STATEMENT = re.compile(
    r"(?:^|;|\b(?:begin|atomic|then|else|loop)\b)\s*"
    r"(?:set\s+(?!local\s|constraints\s|transaction\s)|(?:reset|listen|prepare|discard|load)\b"
    r"|create\s+(?:(?:local|global)\s+)?temp)"
    r"|\binto\s+(?:(?:local|global)\s+)?temp(?:orary)?\s",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"--[^\n\r]*|/\*.*?\*/", re.DOTALL)
_judge = Judge()


def hiding_state(cursor: Any, named: Iterable[str]) -> list[str]:
    """The functions, with their schema, that give state to the session that calls them.

    Without those that are `named`, with or without their schema. A body that puts its
    statements together as text (EXECUTE) does not show what it does.
    """
    known = {bare(name) for name in named}
    cursor.execute(_QUERY)
    return sorted(
        {
            name
            for name, body in cursor.fetchall()
            if name.rpartition(".")[2] not in known and _gives_state(body or "")
        }
    )


def _gives_state(body: str) -> bool:
    bare = _COMMENT.sub(" ", body)
    return bool(_STATEMENT.search(bare) or _judge.words(bare) & DIRT & ~SEQUENCES)
