"""What a statement may leave behind in its session, told from its text.

Misses would be leaks, false alarms cost one clean-up. So nothing is believed to be harmless
but what begins with a word that is known to be, and holds none of the words that give state
to a session. Every semicolon may begin a statement, also one inside quotes or a comment: the
lexer is exact where a statement really begins, and only over-cautious elsewhere.

What cannot be told from outside is a function that does these things inside. Its name can be
given to `Judge`, and those that the server knows are found (hidden.py, trust.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

# Dirt: kinds of state, each of which cleaning.py knows how to undo.
SETTINGS = 1 << 0  # SET, set_config()
CHANNELS = 1 << 1  # LISTEN
LOCKS = 1 << 2  # session-level advisory locks
TEMP = 1 << 3  # temporary tables, views, functions, ...
CURSORS = 1 << 4  # DECLARE
PREPARED = 1 << 5  # PREPARE
SEQUENCES = 1 << 6  # nextval() and setval() are remembered for currval()
FOREVER = 1 << 7  # LOAD and others that end with the session only
HELD = 1 << 8  # psycopg's named cursors, as long as one is open
ROLES = 1 << 9  # of the settings, those that say who the session is
RENAMED = 1 << 10  # psycopg may have prepared what will mean something else
ANYTHING = SETTINGS | ROLES | CHANNELS | LOCKS | TEMP | CURSORS | PREPARED | SEQUENCES
DIRT = ANYTHING | FOREVER | HELD | RENAMED

# Marks: what else has to be known about a statement.
STICKS = 1 << 16  # a rollback does not undo its dirt, or not certainly
ENDS = 1 << 17  # it may end the transaction by committing
WRITES = 1 << 18  # it may advance a sequence
READS_SEQUENCES = 1 << 19  # it asks what the session remembers of sequences
CALLS = 1 << 20  # it may run a function that somebody has made
NAMES = 1 << 21  # it may change, even if for a transaction only, what names stand for
DEFINES = 1 << 22  # it may make or change a function, or what calls one
MAYBE = 1 << 23  # nobody knows yet what it does; see `Changes.record`

KINDS = {
    SETTINGS: "settings",
    ROLES: "roles",
    CHANNELS: "channels",
    LOCKS: "advisory locks",
    TEMP: "temporary objects",
    CURSORS: "cursors",
    HELD: "cursors",
    PREPARED: "prepared statements",
    RENAMED: "prepared statements",
    SEQUENCES: "sequences",
    FOREVER: "what only the end of the session undoes",
}

# Those that run no function but what they name; the others may have triggers.
_QUIET = (
    "SELECT VALUES TABLE SHOW BEGIN START COMMIT END ROLLBACK ABORT SAVEPOINT RELEASE FETCH MOVE "
    "CLOSE LOCK NOTIFY"
)
_HARMLESS = "ANALYZE ANALYSE VACUUM REFRESH REINDEX CLUSTER CHECKPOINT COMMENT GRANT REVOKE"
_BY_FIRST_WORD = {
    **dict.fromkeys(f"{_QUIET} {_HARMLESS}".split(), 0),
    **dict.fromkeys(["INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "COPY", "TRUNCATE"], WRITES),
    **dict.fromkeys(["COMMIT", "END"], ENDS),
    "SET": SETTINGS,
    "RESET": SETTINGS,
    "LISTEN": CHANNELS,
    "UNLISTEN": CHANNELS,
    "DECLARE": CURSORS,
    # Of temporary objects. EXPLAIN ANALYZE runs what it explains, CREATE TEMP TABLE AS included.
    **dict.fromkeys(["CREATE", "ALTER", "DROP", "EXPLAIN"], TEMP),
    "PREPARE": PREPARED | STICKS | ENDS,
    "DEALLOCATE": PREPARED | STICKS,
    "LOAD": FOREVER | STICKS,
}
_BY_FIRST_WORD = {
    word: bits if word in _QUIET.split() else bits | CALLS for word, bits in _BY_FIRST_WORD.items()
}
UNKNOWN = ANYTHING | STICKS | ENDS | WRITES | CALLS

# What stands before a parenthesis and is no function of somebody's own.
_NO_CALLS = (
    "ALL AND ANY ARRAY AS BETWEEN BY CASE DISTINCT ELSE EXCEPT EXISTS FILTER FROM GROUP HAVING "
    "ILIKE IN INTERSECT IS JOIN LATERAL LIKE LIMIT NOT OFFSET ON OR OVER ROW SELECT SIMILAR "
    "SOME THEN TO UNION USING VALUES WHEN WHERE WITHIN "
    "ABS ARRAY_AGG AVG BOOL_AND BOOL_OR BTRIM CAST CEIL CEILING CHAR_LENGTH COALESCE CONCAT "
    "COUNT DATE_TRUNC DENSE_RANK EXTRACT FIRST_VALUE FLOOR GREATEST JSONB_AGG JSON_AGG LAG "
    "LAST_VALUE LEAD LEAST LEFT LENGTH LOWER LTRIM MAX MD5 MIN MOD NOW NULLIF NUMERIC RANK "
    "REPLACE RIGHT ROUND ROW_NUMBER RTRIM STDDEV_POP STDDEV_SAMP STRING_AGG SUBSTR SUBSTRING "
    "SUM TO_CHAR TRIM TRUNC UPPER VARCHAR VAR_POP VAR_SAMP"
)
_NOBODYS_OWN = frozenset(_NO_CALLS.split())
# Whatever is not ASCII may be in a name (PostgreSQL docs, "Identifiers and Key Words").
_NAME_AT_END = re.compile(r"[A-Za-z0-9_$\x80-\U0010ffff]*\Z")
# One that stands in a list, such as that of the rows of VALUES, is no call's.
_PARENTHESIS = re.compile(r"\((?<![,(]\()(?<!, \()")
_LONGEST_BEFORE = 128  # characters that say of a parenthesis whether it is a call's
_BLANKS = " \t\n\r\f\v"

# These end with the transaction. (`SET local.name` is a setting called "local.name". And the
# random numbers that follow from a seed outlive everything.)
_SET_FOR_TRANSACTION = re.compile(
    r"SET\s+(?:LOCAL\s+(?!\"?seed\b)[a-z_\"]|CONSTRAINTS\s+[a-z_\"]"
    r"|TRANSACTION\s+(?:ISOLATION|READ|NOT|DEFERRABLE|SNAPSHOT)\b)",
    re.IGNORECASE | re.ASCII,
)
_SET_CONFIG = re.compile(r"set_config", re.IGNORECASE | re.ASCII)
_LOCAL_SET_CONFIG = re.compile(
    r"\bset_config\s*\(\s*(?:'[^']*'|%s)\s*,\s*(?:'[^']*'|%s|%\(\w+\)s|\$\d+|[a-z_][\w.]*(?:::\w+)?)"
    r"\s*,\s*true\s*\)",
    re.IGNORECASE | re.ASCII,
)
_NAMED_SET_CONFIG = re.compile(r"\bset_config\s*\(\s*'[^']*'\s*,", re.IGNORECASE | re.ASCII)
_ROLE = re.compile(r"role|authorization|pg_settings", re.IGNORECASE | re.ASCII)
_PATH = re.compile(
    r"search_path|schema|role|authorization|pg_settings|\ball\b", re.IGNORECASE | re.ASCII
)
# SELECT INTO makes a temporary table also where it does not say so, by `search_path`. Before the
# word may be a placeholder, or in old servers a number, without a space. Columns may be named so.
_INTO = re.compile(
    r"(?<!insert\s)(?<!merge\s)(?:\b|(?<=\d)|(?<=[%)][bst]))into\b"
    r"(?:(?<![\s.,(=]\"into)|(?!\"))",
    re.IGNORECASE | re.ASCII,
)
_UPDATE = re.compile(r"\bupdate\b", re.IGNORECASE | re.ASCII)
_SEED = re.compile(r"\bseed\b", re.IGNORECASE | re.ASCII)
_QUOTED_SEED = re.compile(r"'seed'", re.IGNORECASE | re.ASCII)

# What may call a function that changes a session, or be called.
_DEFINITION = re.compile(
    r"\b(?:function|procedure|routine|trigger|rule|view|extension|aggregate|policy|default|check"
    r"|generated|references|like|inherit|inherits|partition|attach|rename|schema|domain)\b",
    re.IGNORECASE | re.ASCII,
)
_DDL = re.compile(r"\b(?:create|alter|drop|import)\b", re.IGNORECASE | re.ASCII)

# Words that give state to a session wherever they stand, and what kind of it.
_PATTERNS: dict[str, tuple[str, int]] = {
    "settings": (r"set_config|set_limit|pg_settings", 0),  # looked at more closely
    # A lock that is given up may be one that the session was born with.
    "locks": (r"pg_(?:try_)?advisory_(?:un)?lock", LOCKS | STICKS),
    "temp": (r"pg_temp", TEMP),
    "sequences": (r"nextval|setval", SEQUENCES | STICKS | WRITES),
    "reads_sequences": (r"currval|lastval", READS_SEQUENCES),
    # Replication slots and origins, base backups, connections of dblink, random()'s seed.
    "forever": (
        r"pg_(?:create|copy)_\w*slot|pg_replication_origin_session_setup"
        r"|pg_backup_start|pg_start_backup|dblink_connect|setseed",
        FOREVER | STICKS,
    ),
    # They run SQL that is handed to them as a value; and names that are written in escapes.
    "any": (r"_to_xml|ts_stat|ts_rewrite|crosstab|connectby|xpath_table|u&\"", UNKNOWN),
}

# Each of these words holds one of these. To look for them, and in nothing but the letters that they
# are of, costs a long statement, of which nothing is remembered, a thirtieth of what the words
# themselves would.
_STEMS = (
    *("set_config", "set_limit", "pg_", "tval", "currval", "dblink_connect", "setseed", "_to_xml"),
    *("ts_stat", "ts_rewrite", "crosstab", "connectby", "xpath_table", 'u&"'),
)
_OTHERS = bytes(byte for byte in range(256) if byte not in b'abcdefghijklmnopqrstuvwxyz_&"')

_BLANK = re.compile(r"(?:[ \t\n\r\f\v(]|--[^\n\r]*)+")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_WORD = re.compile(r"[A-Za-z_]+")

_LONGEST_REMEMBERED = 4096  # characters
_MOST_REMEMBERED = 1000  # statements


class Known(Protocol):
    """What is known of the functions on the server: see hidden.py."""

    names: frozenset[str]

    def bits(self, text: str, found: int) -> int:
        """The dirt and the marks of a statement that mentions some, beside those found so far."""


class Judge:
    """Tells what statements may leave behind; remembers what it has told.

    `functions` are the names, with or without a schema and parentheses, of functions that give
    state to the session and cannot be recognized.
    """

    def __init__(self, functions: Iterable[str] = (), shared: bool = False) -> None:
        names = [bare(name) for name in functions]
        self._stems = [_letters(stem) for stem in (*_STEMS, *names)]
        named = [re.escape(name) for name in names]
        groups = {name: pattern for name, (pattern, _) in _PATTERNS.items()}
        if named:
            groups["any"] += "|" + "|".join(named)
        alternatives = (f"(?P<{name}>{pattern})" for name, pattern in groups.items())
        # No \b in front: `"x"pg_advisory_lock` and the like need no space to be a call.
        self._patterns = re.compile("|".join(alternatives), re.IGNORECASE | re.ASCII)
        self.known: dict[Any, int] = {}  # what was told of a statement
        self.named = names
        self.hidden: Known | None = None  # what else changes a session, on the server's side
        self.defined: Callable[[Any], None] | None = None  # to be told whose changes DEFINE
        self.rides = True  # until a server has not understood what riding.py sends
        self.shared = shared  # sessions are lent for a transaction by a pooler: pooler.py

    def learn(self, hidden: Known | None) -> None:
        """Judge from now on also by what was found on the server.

        Who holds `known` has to be told (`Changes.use`). The dictionary is another one, so that a
        thread that is judging at this moment remembers nothing for those that know more.
        """
        self.hidden = hidden
        self.known = {}  # last: what is remembered here was judged by what is known by now

    def __call__(self, query: Any, context: Any = None) -> int:
        """Return the dirt and the marks of a query: text, bytes, or a psycopg Composable.

        `context` is the connection, which a Composable needs to become text.
        """
        known = self.known
        try:
            return known[query]
        except (KeyError, TypeError):
            pass
        if isinstance(query, str):
            text = query
        elif isinstance(query, bytes):
            text = query.decode("latin-1")
        elif hasattr(query, "as_string"):
            text = query.as_string(context)
        else:
            return UNKNOWN
        found = self.judge(text)
        hidden = self.hidden
        if isinstance(query, bytes) and hidden is not None and not text.isascii():
            found |= hidden.bits(query.decode("utf-8", "replace"), found)
        if isinstance(query, (str, bytes)) and len(query) <= _LONGEST_REMEMBERED:
            if len(known) >= _MOST_REMEMBERED:
                known.clear()
            known[query] = found
        return found

    def judge(self, text: str) -> int:
        """Judge a text that may hold several statements."""
        statements = text.split(";")
        found = 0
        several = False
        for number, statement in enumerate(statements):
            bits = _by_first_word(statement)
            several |= bool(number and (bits or statement.strip()))
            found |= bits
        letters = _letters(text)
        found |= self.words(text, letters)
        if b"into" in letters and _selects_into(text):
            found |= TEMP
        if found & SETTINGS:
            found |= _which_settings(text)
        if found & TEMP and _DDL.search(text) and _DEFINITION.search(text):
            found |= DEFINES
        hidden = self.hidden
        if hidden is not None:
            found |= hidden.bits(text, found)
        if several and found & DIRT:
            found |= STICKS | ENDS
        if not found & CALLS and _may_call(text):
            found |= CALLS
        return found

    def words(self, text: str, letters: bytes | None = None) -> int:
        """What the words in a text tell, wherever they stand. `letters` are its `_letters`."""
        found = 0
        letters = _letters(text) if letters is None else letters
        if not any(stem in letters for stem in self._stems):
            return found
        matches = self._patterns.finditer(text)
        for group, word in {(match.lastgroup or "any", match[0].lower()) for match in matches}:
            found |= _settings(word, text) if group == "settings" else _PATTERNS[group][1]
        return found


def _letters(text: str) -> bytes:
    """Of a text, in lower case, what the stems are of: a stem in it is still one in this."""
    return text.lower().encode(errors="replace").translate(None, _OTHERS)


def _selects_into(text: str) -> bool:
    """Whether a text holds an INTO that is not the one of INSERT or MERGE."""
    folded = text.casefold()
    others = folded.count("into") - folded.count("insert into") - folded.count("merge into")
    return bool(others and _INTO.search(text))


def bare(name: str) -> str:
    """The name of a function, as calls of it hold it in any case."""
    return name.partition("(")[0].rpartition(".")[2].strip(' "')


def _settings(word: str, text: str) -> int:
    if word == "pg_settings":
        before, _, _ = text.lower().rpartition(word)
        return SETTINGS if _UPDATE.search(before) else 0
    if word == "set_config" and len(_SET_CONFIG.findall(text)) == len(
        _LOCAL_SET_CONFIG.findall(text)
    ):
        if _QUOTED_SEED.search(text):
            return SETTINGS
        return NAMES if _may_set(_PATH, text) else 0
    return SETTINGS


def _which_settings(text: str) -> int:
    """Of settings that may be set: what has to be known about some of them."""
    found = FOREVER | STICKS if _SEED.search(text) else 0
    if _may_set(_ROLE, text):
        found |= ROLES
    if _may_set(_PATH, text):
        found |= NAMES
    return found


def _may_set(which: re.Pattern[str], text: str) -> bool:
    """Whether it may be one of these that is set: all names must stand there to deny it."""
    names_all = len(_SET_CONFIG.findall(text)) == len(_NAMED_SET_CONFIG.findall(text))
    return bool(not names_all or which.search(text))


def _may_call(text: str) -> bool:
    """Whether a text names a function that is not PostgreSQL's own, as far as words tell."""
    if "(" not in text:
        return False
    # One character is found, or not, in a tenth of the time that two take.
    if ("/" in text and "/*" in text) or ("-" in text and "--" in text):
        return True
    return any(_is_a_call(text, found.start()) for found in _PARENTHESIS.finditer(text))


def _is_a_call(text: str, at: int) -> bool:
    """Whether the parenthesis there is that of a call."""
    start = max(0, at - _LONGEST_BEFORE)
    before = text[start:at].rstrip(_BLANKS)
    name = _NAME_AT_END.findall(before)[0]
    rest = before[: len(before) - len(name)].rstrip(_BLANKS)
    if not rest and start:
        return True  # nobody writes like that
    # `upper` makes an S of a letter that is another one in a name.
    known = not name or (name.isascii() and name.upper() in _NOBODYS_OWN)
    return not known or rest.endswith(".") or before.endswith('"')


def _by_first_word(statement: str) -> int:
    start = _first(statement)
    if start is None:
        return UNKNOWN
    if start == len(statement):
        return 0
    word = _WORD.match(statement, start)
    if word is None:
        return UNKNOWN
    if _SET_FOR_TRANSACTION.match(statement, start):
        return NAMES if _PATH.search(statement) else 0
    return _BY_FIRST_WORD.get(word.group().upper(), UNKNOWN)


def _first(statement: str) -> int | None:
    """Where the first word is, after blanks and comments; None when a comment does not end."""
    at = 0
    while True:
        if blank := _BLANK.match(statement, at):
            at = blank.end()
        if not statement.startswith("/*", at):
            return at
        depth = 0
        while True:  # comments nest (PostgreSQL docs, "Comments")
            edge = _COMMENT_EDGE.search(statement, at)
            if edge is None:
                return None
            depth += 1 if edge.group() == "/*" else -1
            at = edge.end()
            if not depth:
                break


def kinds(dirt: int) -> list[str]:
    """The names of the kinds of state, for people to read."""
    return list(dict.fromkeys(name for bit, name in KINDS.items() if dirt & bit))
