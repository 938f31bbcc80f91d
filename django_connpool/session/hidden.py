"""What changes a session on the server's side, where no statement shows it.

Functions whose bodies do, whatever calls them, and relations that run one of these when they are
read (views, rules, policies) or written to (triggers, defaults, constraints). The server is asked
for its functions and for what depends on them; what follows from that is found here.

What a body holds is judged by its text, and so is what it calls: a name found in it, with any
schema, is believed to be a call. Too many cost clean-ups, too few would be leaks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

from .statements import DIRT, FOREVER, SEQUENCES, UNKNOWN, WRITES, Judge

# Objects below this number are the server's own (FirstNormalObjectId).
_QUERY = """
WITH functions AS MATERIALIZED (
    SELECT p.oid, n.nspname, p.proname, l.lanname, p.prosrc,
        EXISTS (
            SELECT FROM pg_catalog.pg_depend AS d
            WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
            AND d.objid = p.oid AND d.deptype = 'e'
        ) AS extends
    FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
    WHERE p.oid >= 16384
    AND n.nspname NOT LIKE 'pg\\_temp%' AND n.nspname NOT LIKE 'pg\\_toast\\_temp%'
), objects AS MATERIALIZED (
    SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass AS kind, r.oid, r.ev_class AS relation,
        CASE r.ev_type WHEN '1' THEN 'read' ELSE 'write' END AS by
    FROM pg_catalog.pg_rewrite AS r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid, p.polrelid, 'read'
    FROM pg_catalog.pg_policy AS p
    UNION ALL SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, a.oid, a.adrelid, 'write'
    FROM pg_catalog.pg_attrdef AS a
    UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, c.oid, c.conrelid, 'write'
    FROM pg_catalog.pg_constraint AS c WHERE c.contype = 'c' AND c.conrelid <> 0
), uses AS (
    SELECT o.by, o.relation, d.refclassid, d.refobjid
    FROM objects AS o JOIN pg_catalog.pg_depend AS d ON d.classid = o.kind AND d.objid = o.oid
    WHERE d.refobjid >= 16384 AND d.refobjid <> o.relation
    AND d.refclassid IN (
        'pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass
    )
    UNION SELECT 'write', t.tgrelid, 'pg_catalog.pg_proc'::pg_catalog.regclass, t.tgfoid
    FROM pg_catalog.pg_trigger AS t WHERE NOT t.tgisinternal
    UNION SELECT 'write', c.confrelid, 'pg_catalog.pg_class'::pg_catalog.regclass, c.conrelid
    FROM pg_catalog.pg_constraint AS c WHERE c.contype = 'f'
    UNION SELECT 'write', i.inhparent, 'pg_catalog.pg_class'::pg_catalog.regclass, i.inhrelid
    FROM pg_catalog.pg_inherits AS i
)
SELECT 'function', f.oid::text, f.proname::text, f.nspname::text, f.lanname::text,
    CASE WHEN f.extends THEN 'extension' ELSE '' END, {body}
FROM functions AS f WHERE NOT (f.lanname = 'c' AND f.extends)
UNION ALL
SELECT u.by, u.relation::text, c.relname::text, n.nspname::text,
    CASE u.refclassid WHEN 'pg_catalog.pg_class'::pg_catalog.regclass THEN 'relation'
    ELSE 'function' END, '', u.refobjid::text
FROM uses AS u JOIN pg_catalog.pg_class AS c ON c.oid = u.relation
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE EXISTS (SELECT FROM functions)
UNION ALL
SELECT 'call', d.objid::text, '', '', '', '', d.refobjid::text
FROM pg_catalog.pg_depend AS d
WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid >= 16384
UNION ALL
SELECT 'event', '', '', '', '', '', e.evtfoid::text FROM pg_catalog.pg_event_trigger AS e
"""
_SQL_BODIES_FROM = 140000  # server version


def query(server_version: int) -> bytes:
    """What to ask the server, for `find`."""
    body = "f.prosrc"
    if server_version >= _SQL_BODIES_FROM:
        body = "COALESCE(pg_catalog.pg_get_function_sqlbody(f.oid), f.prosrc)"
    return _QUERY.format(body=body).encode()


# Statements that give state to a session, where a body of SQL or PL/pgSQL has its statements.
_GIVES = re.compile(
    r"(?:set\s+(?!local\s|constraints\s|transaction\s)|(?:reset|listen|prepare|discard|load)\b"
    r"|create\s+(?:(?:local|global)\s+)?temp)"
)
_STARTS = (";", "begin", "atomic", "then", "else", "loop", ">>")
_MOST_BLANKS = 100  # characters; after more of them anything may be the start of a statement
_INTO_TEMP = re.compile(r"\binto\s+(?:(?:local|global)\s+)?temp(?:orary)?\s")
# What PL/pgSQL puts together as text has its statements in quotes.
_EXECUTE = re.compile(r"\bexecute\b(?!\s+(?:function|procedure|on)\b)")
_QUOTES = (";", "'", "$")
_QUOTED_VERB = re.compile(
    r"(?:'|\$\w*\$)\s*(?:select|insert|update|delete|merge|with|values|truncate|copy|call|alter"
    r"|create|drop|comment|grant|revoke|analyze|vacuum|refresh|reindex|cluster|lock|notify|set"
    r"|security|explain)\b"
)
_LOAD = re.compile(r"\bload\b")
_COMMENT = re.compile(r"--[^\n\r]*|/\*.*?\*/", re.DOTALL)
_WRITING = frozenset([b"insert", b"update", b"delete", b"merge", b"truncate", b"copy"])
_DDL = frozenset(
    ["create", "alter", "drop", "grant", "revoke", "comment", "security", "import", "refresh"]
)
# As PostgreSQL has names; those that hold other characters are looked for as they are.
_WORD = re.compile(r"[^\W\d][\w$]*")
# What is no part of a name as a blank. Whatever is not ASCII may be.
_SEPARATED = bytes(
    byte if byte > 127 or chr(byte).isalnum() or chr(byte) in "_$" else ord(" ")
    for byte in range(256)
)
_FEW = 8  # names that are looked for one by one before a statement is taken apart
_judge = Judge()


class Function(NamedTuple):
    """A function on the server, and what its body shows."""

    name: str
    schema: str
    body: str  # casefolded
    words: frozenset[bytes]
    state: int  # what calling it may leave, as dirt


class Hidden:
    """The names that statements are not to mention, or not to write to, to be harmless."""

    __slots__ = ("_calls", "_few", "_forever", "_given", "_odd", "_writes", "causes", "names")

    def __init__(
        self, calls: set[str], writes: set[str], forever: set[str], causes: Iterable[str]
    ) -> None:
        self._given = calls, writes, forever
        calls, writes = {name.casefold() for name in calls}, {name.casefold() for name in writes}
        self.names = frozenset(calls | writes)
        self._calls, self._writes = _words(calls), _words(writes)
        self._forever = _words({name.casefold() for name in forever})
        # Those that no statement holds as one word.
        odd = [name for name in self.names if not _WORD.fullmatch(name)]
        self._odd = [name.replace('"', '""') for name in odd]
        self._few = self.names.difference(odd) if len(self.names) <= _FEW else None
        self.causes = frozenset(causes)  # functions that do it themselves, with their schemas

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden) and self._given == other._given

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Hidden) -> Hidden:
        calls, writes, forever = (
            mine | theirs for mine, theirs in zip(self._given, other._given, strict=True)
        )
        return Hidden(calls, writes, forever, self.causes | other.causes)

    def bits(self, text: str, found: int) -> int:
        """Dirt and marks of a statement in which something else was `found` already."""
        folded = text.casefold()
        if self._odd and any(name in folded for name in self._odd):
            return UNKNOWN | (FOREVER if self._forever else 0)
        if self._few is not None and not any(name in folded for name in self._few):
            return 0
        words = _words_in(folded)
        if not self._calls.isdisjoint(words) or (
            # EXPLAIN and others that may write are dirt by themselves.
            found & (WRITES | DIRT) and not self._writes.isdisjoint(words)
        ):
            return UNKNOWN | (0 if self._forever.isdisjoint(words) else FOREVER)
        return 0


def _words(names: set[str]) -> frozenset[bytes]:
    return frozenset(name.encode("utf-8", "surrogatepass") for name in names)


def find(rows: Iterable[Sequence[str]], named: Iterable[str] = ()) -> Hidden | None:
    """What the answer to `query` tells; None when nothing is hidden.

    `named` are names of functions of which it is known.
    """
    functions: dict[str, Function] = {}
    relations: dict[str, str] = {}
    users: dict[str, set[tuple[str, str]]] = defaultdict(set)  # how an object is used by which
    events: set[str] = set()
    for kind, number, name, schema, what, extends, last in rows:
        # Numbers are each catalog's own.
        used = f"{what} {last}" if kind in ("read", "write") else f"function {last}"
        if kind == "function":
            body = last.casefold()
            if "--" in body or "/*" in body:
                body = _COMMENT.sub(" ", body)
            state = _state(what, body, bool(extends))
            words = frozenset(() if what in ("c", "internal") else _words_in(body))
            functions[f"function {number}"] = Function(name, schema, body, words, state)
        elif kind == "event":
            events.add(used)
        elif kind == "call":
            users[used].add(("call", f"function {number}"))
        else:
            relations[f"relation {number}"] = name
            users[used].add((kind, f"relation {number}"))
    known = {name.casefold() for name in named}
    seeds = {oid for oid, function in functions.items() if function.state}
    seeds |= {oid for oid, function in functions.items() if function.name.casefold() in known}
    if not seeds:
        return None
    graph = _Graph(functions, relations, users)
    calls, writes, ddl = graph.reached(seeds, events)
    forever = {oid for oid in seeds if functions[oid].state & FOREVER}
    lasting: set[str] = set()
    if forever:
        lasting = set().union(*graph.reached(forever, events))
    causes = {f"{functions[oid].schema}.{functions[oid].name}" for oid in seeds}
    return Hidden(calls | ddl, writes, lasting, causes)


def merged(found: Iterable[Hidden | None]) -> Hidden | None:
    """What is hidden in any of several databases."""
    hidden = [each for each in found if each is not None]
    return reduce(or_, hidden) if hidden else None


def _state(language: str, body: str, extends: bool) -> int:
    """What a function may leave in the session by what its own body does."""
    if language == "c":
        return UNKNOWN & DIRT  # those of extensions were not asked for
    if language not in ("sql", "plpgsql", "internal"):
        return 0 if extends else UNKNOWN & DIRT
    found = _judge.words(body) & DIRT & ~SEQUENCES
    if language == "internal":
        return found
    if _has_statement(body, _STARTS) or ("temp" in body and _INTO_TEMP.search(body)):
        found |= UNKNOWN & DIRT
    if language == "plpgsql" and "execute" in body and _EXECUTE.search(body):
        # What is executed is put together of texts in the body, or comes from elsewhere.
        unseen = not extends and not _QUOTED_VERB.search(body)
        if unseen or _has_statement(body, _QUOTES):
            found |= UNKNOWN & DIRT
    if found and _LOAD.search(body):
        found |= FOREVER
    return found


def _has_statement(body: str, starts: tuple[str, ...]) -> bool:
    """Whether something that gives state stands after one of these, or first."""
    for verb in _GIVES.finditer(body):
        before = body[max(0, verb.start() - _MOST_BLANKS) : verb.start()].rstrip()
        if not before or before.endswith(starts):
            return True
    return False


def _words_in(folded: str) -> list[bytes]:
    """The words of a text, as names are compared; a fifth of what an expression would cost."""
    return folded.encode("utf-8", "surrogatepass").translate(_SEPARATED).split()


class _Graph:
    """Who calls and uses whom."""

    def __init__(
        self,
        functions: dict[str, Function],
        relations: dict[str, str],
        users: dict[str, set[tuple[str, str]]],
    ) -> None:
        self._functions = functions
        self._relations = relations
        self._users = users
        names = _words({function.name.casefold() for function in functions.values()})
        names |= _words({name.casefold() for name in relations.values()})
        self._mentioned_in: dict[bytes, list[str]] = defaultdict(list)
        for oid, function in functions.items():
            for word in function.words & names:
                self._mentioned_in[word].append(oid)

    def reached(self, seeds: set[str], events: set[str]) -> tuple[set[str], set[str], set[str]]:
        """The names that call one of the seeds, those that do so when written to, words of DDL."""
        calls: set[str] = set()  # functions, and relations that are read
        writes: set[str] = set()
        found = [(oid, False) for oid in seeds]
        while found:
            oid, by_writing = found.pop()
            if oid in calls or (by_writing and oid in writes):
                continue
            (writes if by_writing else calls).add(oid)
            found += self._reached_from(oid, by_writing)
        return (
            {self._name(oid) for oid in calls},
            {self._name(oid) for oid in writes},
            set(_DDL) if events & calls else set(),
        )

    def _reached_from(self, oid: str, by_writing: bool) -> Iterator[tuple[str, bool]]:
        for how, user in self._users.get(oid, ()):
            if user not in self._functions and user not in self._relations:
                continue  # an extension's own
            # Reading a view reads, and writing to it writes to, what is below; a rule, a cascade
            # or an inheritance are about writing.
            yield user, by_writing or how == "write"
        for user in self._mentioning(self._name(oid).casefold()):
            if not by_writing or not _WRITING.isdisjoint(self._functions[user].words):
                yield user, False

    def _mentioning(self, name: str) -> Iterable[str]:
        if _WORD.fullmatch(name):
            return self._mentioned_in.get(name.encode("utf-8", "surrogatepass"), ())
        quoted = name.replace('"', '""')
        return [oid for oid, function in self._functions.items() if quoted in function.body]

    def _name(self, oid: str) -> str:
        return self._functions[oid].name if oid in self._functions else self._relations[oid]
