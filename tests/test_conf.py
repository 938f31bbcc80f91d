from __future__ import annotations

import dataclasses
import inspect
import math
import os.path
import sys
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_connpool import ConnectionPool, conf
from django_connpool.conf import ImpossibleValue, PoolOptions, UnknownOption, parse

# Every argument of psycopg_pool.ConnectionPool in 3.2 and 3.3.
PSYCOPG_POOL_OPTIONS = (
    "check",
    "close_returns",
    "configure",
    "connection_class",
    "conninfo",
    "kwargs",
    "max_idle",
    "max_lifetime",
    "max_size",
    "max_waiting",
    "min_size",
    "name",
    "num_workers",
    "open",
    "reconnect_failed",
    "reconnect_timeout",
    "reset",
    "timeout",
)


def nested(**options: Any) -> dict[str, Any]:
    """The settings of a database with these options in OPTIONS["pool"]."""
    return {"OPTIONS": {"pool": options}}


def flat(**options: Any) -> dict[str, Any]:
    """The settings of a database with these options as a database URL gives them."""
    return {"OPTIONS": {f"pool_{name}": value for name, value in options.items()}}


def read(name: str, value: Any) -> Any:
    options = parse(nested(**{name: value}))
    return getattr(options, name)


def callback(conn: Any) -> None:
    """What `configure`, `check`, `reset` and `reconnect_failed` can be."""


# Defaults and the switch


@pytest.mark.parametrize(
    "settings_dict",
    [
        {},
        {"OPTIONS": None},
        {"OPTIONS": {}},
        {"OPTIONS": {"sslmode": "require"}},
        {"OPTIONS": {"pool": None}},
        {"OPTIONS": {"pool": {}}},
        {"OPTIONS": {"pool": True}},
        {"OPTIONS": {"pool": "true"}},
        {"OPTIONS": {"pool": "1"}},
        {"OPTIONS": {"pool": 1}},
    ],
    ids=str,
)
def test_pooling_is_on_with_defaults(settings_dict: dict[str, Any]) -> None:
    assert conf.enabled(settings_dict)
    assert parse(settings_dict) == PoolOptions()


@pytest.mark.parametrize("switch", [False, "false", " Off ", "no", "0", 0])
def test_pooling_is_off_when_pool_is_false(switch: Any) -> None:
    settings_dict = {"OPTIONS": {"pool": switch, "pool_max_size": "20", "pool_num_workers": "3"}}
    assert not conf.enabled(settings_dict)
    assert parse(settings_dict) is None
    assert conf.problems(settings_dict) == ()
    assert conf.ignored(settings_dict) == ()


@pytest.mark.parametrize("switch", [10, 2.5, "", "maybe", [], [("max_size", 5)]], ids=repr)
def test_pool_is_a_switch_or_a_dictionary(switch: Any) -> None:
    with pytest.raises(ImpossibleValue) as caught:
        parse({"OPTIONS": {"pool": switch}})
    assert str(caught.value) == (
        f'OPTIONS["pool"] cannot be {switch!r}. It must be True, False or a dictionary of options.'
    )


def test_defaults() -> None:
    assert dataclasses.asdict(PoolOptions()) == {
        "min_size": 0,
        "max_size": 10,
        "timeout": 10.0,
        "max_waiting": 0,
        "max_idle": 600.0,
        "max_lifetime": 3600.0,
        "max_uses": 0,
        "command_timeout": None,
        "transaction_timeout": None,
        "idle_in_transaction_timeout": None,
        "lock_timeout": None,
        "max_connecting": 8,
        "outage_patience": 3.0,
        "check": "auto",
        "reset": "auto",
        "reset_functions": (),
        "strict": False,
        "release": "auto",
        "round_trips": "fewest",
        "behind": "auto",
        "leak_after": 0.0,
        "max_hold_idle": 0.0,
        "reconnect_timeout": 300.0,
        "jitter": 0.1,
        "configure": None,
        "reconnect_failed": None,
        "credentials": None,
        "credentials_ttl": 600.0,
        "name": None,
        "host_max_size": None,
        "host_required": False,
        "budget": None,
        "reserve": 0,
        "background_max": None,
        "label_sessions": False,
        "listen_counts": False,
    }


def test_options_are_frozen_and_hashable() -> None:
    options = PoolOptions(configure=callback)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.max_size = 5  # type: ignore[misc]
    assert hash(options) == hash(PoolOptions(configure=callback))


def test_every_option_has_a_reader() -> None:
    assert set(conf.READERS) == {field.name for field in dataclasses.fields(PoolOptions)}


def test_pool_kwargs_are_arguments_of_the_pool() -> None:
    options = PoolOptions(max_size=7, command_timeout=5.0, name="shop")
    kwargs = options.pool_kwargs()
    assert kwargs["max_size"] == 7
    assert kwargs["name"] == "shop"
    unknown = kwargs.keys() - inspect.signature(ConnectionPool).parameters.keys()
    assert not unknown, "name them in PoolOptions.pool_kwargs, or have ConnectionPool take them"
    assert conf.READERS.keys() - kwargs.keys() == {
        "background_max",
        "budget",
        "command_timeout",
        "credentials",
        "credentials_ttl",
        "idle_in_transaction_timeout",
        "lock_timeout",
        "host_max_size",
        "host_required",
        "label_sessions",
        "listen_counts",
        "max_hold_idle",
        "release",
        "reserve",
        "round_trips",
        "transaction_timeout",
    }


@pytest.mark.parametrize(
    "settings_dict",
    [
        {},
        nested(max_size=1, timeout=0.001, max_idle=0.001, max_lifetime=0.001, jitter=0),
        nested(max_size=None, timeout=math.inf, max_idle=math.inf, max_lifetime=math.inf),
        nested(reconnect_timeout=0, leak_after=math.inf, jitter=0.99, check=False, reset=False),
        nested(configure=callback, check=callback, reset=callback, reconnect_failed=callback),
    ],
    ids=["defaults", "least", "most", "off", "callbacks"],
)
def test_the_pool_takes_what_the_settings_may_say(settings_dict: dict[str, Any]) -> None:
    options = parse(settings_dict)
    assert options is not None
    pool = ConnectionPool("", open=False, **options.pool_kwargs())
    assert (pool.max_size, pool.timeout) == (options.max_size, options.timeout)


# Where options are found


def test_options_of_a_database_url_are_text() -> None:
    options = parse(
        flat(
            max_size="20",
            timeout="2.5",
            command_timeout="none",
            check="false",
            reset="ALWAYS",
            release="request",
            configure="os.path.join",
            name="shop",
        )
    )
    assert options == PoolOptions(
        max_size=20,
        timeout=2.5,
        command_timeout=None,
        check=False,
        reset="always",
        release="request",
        configure=os.path.join,  # type: ignore[arg-type]
        name="shop",
    )


def test_both_spellings_complete_each_other() -> None:
    options = parse({"OPTIONS": {"pool": {"min_size": 2}, "pool_max_size": "5"}})
    assert options == PoolOptions(min_size=2, max_size=5)


def test_the_same_value_may_be_given_twice() -> None:
    options = parse({"OPTIONS": {"pool": {"max_size": 5}, "pool_max_size": "5"}})
    assert options == PoolOptions(max_size=5)


def test_two_different_values_are_an_error() -> None:
    with pytest.raises(ImpossibleValue) as caught:
        parse({"OPTIONS": {"pool": {"max_size": 5}, "pool_max_size": "6"}})
    assert str(caught.value) == (
        "Pool option 'pool_max_size' in OPTIONS cannot be '6'. "
        'OPTIONS["pool"] says 5: give it only once.'
    )


def test_pool_keys_and_strip_leave_the_parameters_of_the_connection() -> None:
    params = {"pool": True, "pool_max_size": 5, "pool_typo": 1, "sslmode": "require", "poolish": 1}
    assert conf.pool_keys(params) == {"pool", "pool_max_size", "pool_typo"}
    assert conf.strip(params) == {"sslmode": "require", "poolish": 1}
    assert "pool" in params


# Unknown options


@pytest.mark.parametrize(
    ("settings_dict", "message"),
    [
        (
            nested(max_sise=5),
            "Unknown pool option 'max_sise' in OPTIONS[\"pool\"]. Did you mean 'max_size'?",
        ),
        (
            nested(MAX_SIZE=5),
            "Unknown pool option 'MAX_SIZE' in OPTIONS[\"pool\"]. Did you mean 'max_size'?",
        ),
        (
            nested(pool_max_size=5),
            "Unknown pool option 'pool_max_size' in OPTIONS[\"pool\"]. Did you mean 'max_size'?",
        ),
        (
            flat(max_sise="5"),
            "Unknown pool option 'pool_max_sise' in OPTIONS. Did you mean 'pool_max_size'?",
        ),
    ],
    ids=["nested", "upper case", "prefixed", "flat"],
)
def test_unknown_option_names_the_nearest(settings_dict: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownOption) as caught:
        parse(settings_dict)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["qqq", 5, ""])
def test_unknown_option_near_to_none_lists_all(name: Any) -> None:
    with pytest.raises(UnknownOption) as caught:
        parse({"OPTIONS": {"pool": {name: 1}}})
    assert caught.value.hint == f"The options are: {', '.join(sorted(conf.READERS))}."


def test_errors_are_improperly_configured() -> None:
    with pytest.raises(ImproperlyConfigured):
        parse(nested(max_sise=5))
    with pytest.raises(ImproperlyConfigured):
        parse(nested(max_size=0))


def test_problems_has_all_of_them_in_order() -> None:
    settings_dict = {"OPTIONS": {"pool": {"max_sise": 5, "timeout": -1}, "pool_check": "never"}}
    found = conf.problems(settings_dict)
    assert [type(error) for error in found] == [UnknownOption, ImpossibleValue, ImpossibleValue]
    with pytest.raises(UnknownOption) as caught:
        parse(settings_dict)
    assert str(caught.value) == str(found[0])


def test_no_problems() -> None:
    assert conf.problems(nested(max_size=5)) == ()


# Impossible values

WHOLE_0 = "It must be a whole number, 0 or more."
WHOLE_1 = "It must be a whole number, 1 or more."
SECONDS = "It must be a number of seconds, 0 or more."
ABOVE_0 = "It must be a number of seconds above 0."
LIMIT = "It must be a number of seconds, 0.001 or more, or None (or 0) for no limit."
POLICY = 'It must be "auto", "always", False, a callable or the dotted path of a callable.'
CALLABLE = "It must be a callable, the dotted path of one, or None."


@pytest.mark.parametrize(
    ("name", "hint", "values"),
    [
        ("min_size", WHOLE_0, [-1, None, True, 2.0, "2.5", "many", [], "none"]),
        ("max_size", WHOLE_1, [0, -1, False, 2.0, "ten", "0"]),
        ("max_waiting", WHOLE_0, [-1, None, 0.5]),
        ("max_uses", WHOLE_0, [-1, None, "x"]),
        ("max_connecting", WHOLE_1, [0, None, "x"]),
        ("timeout", ABOVE_0, [0, -0.5, None, True, "soon", "nan", math.nan, [], 10**400]),
        ("max_hold_idle", SECONDS, [-1, None, True, "soon", "nan"]),
        ("leak_after", SECONDS, [-1, None, True, "soon", "nan", math.nan, [], 10**400]),
        ("reconnect_timeout", SECONDS, [-1, None]),
        ("outage_patience", SECONDS, [-1, None, "soon"]),
        ("max_idle", ABOVE_0, [0, -1, None, "nan"]),
        ("max_lifetime", ABOVE_0, [0, -1, None, "nan"]),
        ("command_timeout", LIMIT, [-1, 0.0004, "never", True]),
        ("transaction_timeout", LIMIT, [-1, 0.0004, "never", True]),
        ("idle_in_transaction_timeout", LIMIT, [-1, 0.0004, "never", True]),
        ("lock_timeout", LIMIT, [-1, 0.0004, "never", True]),
        ("credentials_ttl", SECONDS, [-1, None, "soon"]),
        ("jitter", "It must be a number from 0 up to, not including, 1.", [-0.1, 1, 2, None]),
        ("check", POLICY, ["never", True, 2, "none", ""]),
        ("reset", POLICY, ["never", True, 2, "none", ""]),
        (
            "reset_functions",
            "It must be a list of names of functions, or text with commas between them.",
            [5, None, [5], {"a": 1}],
        ),
        ("strict", "It must be True or False.", [None, "perhaps", 2, []]),
        ("round_trips", 'It must be "fewest" or "as django".', ["few", True, None, ""]),
        ("behind", 'It must be "auto", "server" or "pgbouncer".', ["odyssey", True, 5, ""]),
        ("release", 'It must be "auto", "request" or "transaction".', ["session", True, None, ""]),
        ("configure", CALLABLE, [True, 5, "callback", "os.path"]),
        ("reconnect_failed", CALLABLE, [True, 5, "callback", "os.path"]),
        ("check", CALLABLE, ["os.path"]),
        ("name", "It must be text or None.", [2.5, True, ["shop"]]),
    ],
)
def test_impossible_value_says_what_is_allowed(name: str, hint: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ImpossibleValue) as caught:
            parse(nested(**{name: value}))
        assert caught.value.message.startswith(f"Pool option '{name}' in OPTIONS[\"pool\"] cannot")
        assert repr(value) in caught.value.message
        assert caught.value.hint == hint
        assert str(caught.value) == f"{caught.value.message} {hint}"


async def async_callback(parameters: Any) -> str:
    """What `credentials` cannot be."""
    return ""


class AsyncCallback:
    async def __call__(self, parameters: Any) -> str:
        return ""


SECRETS = [
    "s3cret",
    "s3.cret",
    b"s3cret",
    {"password": "s3cret"},
    33333,
    partial(async_callback, 33333),
]


@pytest.mark.parametrize("value", SECRETS, ids=lambda value: type(value).__name__)
def test_what_stands_in_the_place_of_credentials_is_not_shown(value: Any) -> None:
    """Somebody may have written the password there."""
    with pytest.raises(ImpossibleValue) as caught:
        parse(nested(credentials=value))
    told = str(caught.value) + repr(caught.value.__cause__)
    assert told.startswith(
        "Pool option 'credentials' in OPTIONS[\"pool\"] has an impossible value (not "
        "shown, as it may be a password). It "
    )
    assert "cret" not in told
    assert "333" not in told


def test_two_credentials_are_an_error_that_shows_neither() -> None:
    both = {"pool": {"credentials": partial(callback, 33333)}, "pool_credentials": callback}
    with pytest.raises(ImpossibleValue) as caught:
        parse({"OPTIONS": both})
    assert "333" not in str(caught.value)


@pytest.mark.parametrize("value", [async_callback, partial(async_callback, 1), AsyncCallback()])
def test_async_credentials_are_refused(value: Any) -> None:
    with pytest.raises(ImpossibleValue, match="must not be async: connections are opened in thr"):
        parse(nested(credentials=value))


def test_max_size_below_min_size() -> None:
    with pytest.raises(ImpossibleValue) as caught:
        parse(nested(min_size=4, max_size=2))
    assert str(caught.value) == (
        "Pool option 'max_size' cannot be 2: 'min_size' is 4. Raise 'max_size' or lower 'min_size'."
    )


def test_sizes_are_compared_whatever_else_is_wrong() -> None:
    found = conf.problems(nested(min_size=4, max_size=2, leak_after=-1))
    assert [error.hint for error in found] == [SECONDS, "Raise 'max_size' or lower 'min_size'."]


def test_sizes_are_not_compared_when_one_of_them_is_impossible() -> None:
    assert [error.hint for error in conf.problems(nested(min_size="x", max_size=2))] == [WHOLE_0]
    assert [error.hint for error in conf.problems(nested(min_size=50, max_size="x"))] == [WHOLE_1]


def test_path_that_cannot_be_imported() -> None:
    with pytest.raises(ImpossibleValue) as caught:
        parse(flat(configure="no_such_module.callback"))
    assert str(caught.value) == (
        "Pool option 'pool_configure' in OPTIONS cannot be 'no_such_module.callback'. "
        "It cannot be imported (ModuleNotFoundError: No module named 'no_such_module')."
    )


def test_path_of_a_module_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("not today")

    module = Failing("failing_callbacks")
    monkeypatch.setitem(sys.modules, "failing_callbacks", module)
    with pytest.raises(ImpossibleValue, match=r"cannot be imported \(RuntimeError: not today\)"):
        parse(nested(check="failing_callbacks.ping"))


# Possible values


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"min_size": 4}, (4, 10)),
        ({"min_size": 40}, (40, 40)),
        ({"min_size": 4, "max_size": None}, (4, 4)),
        ({"min_size": 4, "max_size": "None"}, (4, 4)),
        ({"max_size": None}, (0, 10)),
        ({"max_size": 1}, (0, 1)),
        ({"min_size": 3, "max_size": 3}, (3, 3)),
    ],
)
def test_sizes(given: dict[str, Any], expected: tuple[int, int]) -> None:
    options = parse(nested(**given))
    assert options is not None
    assert (options.min_size, options.max_size) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("leak_after", 0, 0.0),
        ("timeout", 3, 3.0),
        ("timeout", " 2.5 ", 2.5),
        ("timeout", math.inf, conf.LONGEST),
        ("max_lifetime", "inf", conf.LONGEST),
        ("max_lifetime", 0.5, 0.5),
        ("max_idle", 10**12, conf.LONGEST),
        ("command_timeout", None, None),
        ("command_timeout", 0, None),
        ("command_timeout", "0", None),
        ("command_timeout", 0.001, 0.001),
        ("command_timeout", "30", 30.0),
        ("command_timeout", 10**9, conf.LONGEST),
        ("transaction_timeout", "2.5", 2.5),
        ("idle_in_transaction_timeout", 0, None),
        ("lock_timeout", "none", None),
        ("credentials", callback, callback),
        ("credentials", "os.path.join", os.path.join),
        ("credentials", "none", None),
        ("credentials_ttl", 0, 0.0),
        ("jitter", 0, 0.0),
        ("jitter", "0.25", 0.25),
        ("max_uses", "500", 500),
        ("check", None, "auto"),
        ("check", "Always", "always"),
        ("check", False, False),
        ("check", callback, callback),
        ("check", "os.path.join", os.path.join),
        ("reset", None, "auto"),
        ("reset", 0, False),
        ("reset", callback, callback),
        ("reset_functions", ["app.set_tenant", "b"], ("app.set_tenant", "b")),
        ("reset_functions", " app.set_tenant, b,", ("app.set_tenant", "b")),
        ("reset_functions", "", ()),
        ("strict", True, True),
        ("strict", "no", False),
        ("release", "Request", "request"),
        ("release", "transaction", "transaction"),
        ("round_trips", "Fewest", "fewest"),
        ("round_trips", "as_django", "as django"),
        ("behind", "PgBouncer", "pgbouncer"),
        ("behind", "server", "server"),
        ("behind", None, "auto"),
        ("configure", None, None),
        ("configure", "none", None),
        ("configure", callback, callback),
        ("reconnect_failed", "os.path.join", os.path.join),
        ("name", None, None),
        ("name", "", None),
        ("name", "shop", "shop"),
        ("name", 7, "7"),
    ],
)
def test_possible_values(name: str, value: Any, expected: Any) -> None:
    found = read(name, value)
    assert found == expected
    assert type(found) is type(expected)


# A dictionary written for Django's own pool


def test_every_option_of_psycopg_pool_is_accepted() -> None:
    known = conf.READERS.keys() | conf.WITHOUT_MEANING.keys()
    assert [name for name in PSYCOPG_POOL_OPTIONS if name not in known] == []


def test_options_without_meaning_are_named_and_change_nothing() -> None:
    settings_dict = {
        "OPTIONS": {
            "pool": {"kwargs": {}, "conninfo": "", "connection_class": object, "open": True},
            "pool_num_workers": "3",
            "pool_close_returns": "true",
        }
    }
    assert parse(settings_dict) == PoolOptions()
    ignored = dict(conf.ignored(settings_dict))
    assert ignored.keys() == conf.WITHOUT_MEANING.keys()
    assert all(ignored.values())


def test_options_with_meaning_are_not_ignored() -> None:
    assert conf.ignored(nested(max_size=5, num_workers=3)) == (
        ("num_workers", conf.WITHOUT_MEANING["num_workers"]),
    )


# Bounds that are shared


@pytest.mark.parametrize(("given", "means"), [(3, 3), ("3", 3), ("60%", "60%"), ("60 %", "60%")])
def test_background_work_has_a_number_or_a_share(given: Any, means: Any) -> None:
    assert read("background_max", given) == means


@pytest.mark.parametrize("given", [0, -1, "0%", "101%", "half", 0.5, True, "%"], ids=repr)
def test_what_background_work_may_have_is_no_other_thing(given: Any) -> None:
    with pytest.raises(ImpossibleValue, match="a share such as"):
        read("background_max", given)


def test_something_is_left_for_usual_work() -> None:
    assert parse(nested(max_size=5, reserve=4))
    with pytest.raises(ImpossibleValue, match="It may be 4 at most"):
        parse(nested(max_size=5, reserve=5))
    assert parse(nested(max_size=5, host_max_size=12, reserve=5))
    with pytest.raises(ImpossibleValue, match="'reserve' cannot be 12: there are only 12"):
        parse(nested(max_size=5, host_max_size=12, reserve=12))


@pytest.mark.parametrize(
    "options",
    [
        {"max_size": 1},
        {"max_size": 1, "host_max_size": 9},
        {"max_size": 1, "budget": "main"},
        {"max_size": 9, "host_max_size": 1},
        {"max_size": 9, "reserve": 8},
    ],
    ids=str,
)
def test_who_listens_within_the_bound_leaves_something_to_borrow(options: dict[str, Any]) -> None:
    assert parse(nested(**options))
    with pytest.raises(ImpossibleValue, match="'listen_counts' cannot be True"):
        parse(nested(**options, listen_counts=True))
    assert parse(nested(max_size=9, reserve=7, listen_counts=True))


@pytest.mark.parametrize("option", ["host_max_size", "reserve", "background_max"])
def test_a_budget_has_its_own_terms(option: str) -> None:
    with pytest.raises(ImpossibleValue, match=r'Write it into CONNPOOL_BUDGETS\["main"\]'):
        parse(nested(budget="main", **{option: 1}))
