"""Write the table of docs/options.md by what conf.py and readers.py say.

    python docs/site/options.py

What an option can be is what its reader says to somebody who has given it nonsense.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from django_connpool.conf import PoolOptions
from django_connpool.readers import READERS

PAGE = Path(__file__).parents[1] / "options.md"

BEGIN = "<!-- Written by docs/site/options.py. -->"
END = "<!-- Up to here. -->"
TABLE = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)

HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
TOLD = re.compile(r"\*\*`(\w+)`\*\*")
# Where the code says None, and a reader would ask what that means.
MEANT = {"name": "the alias"}


def allowed(option: str) -> str:
    """What an option can be, in the words of the error for a value that it cannot be."""
    reader = READERS[option]
    try:
        reader(object())
    except ValueError as error:
        said = str(error).removeprefix("It must be ").removesuffix(".")
    else:
        raise AssertionError(f"{option} can be anything at all")
    if "None" not in said and takes_none(option):
        said += ", or None"
    said = re.sub(r'("[^"]*")', r"`\1`", said)
    return re.sub(r"\b(True|False|None)\b", r"`\1`", said)


def takes_none(option: str) -> bool:
    try:
        return READERS[option](None) is None
    except ValueError:
        return False


def default(option: str) -> str:
    """An option's default, as the page writes it."""
    value = PoolOptions.__dataclass_fields__[option].default
    if value is None or value == ():
        return MEANT.get(option, "none")
    if isinstance(value, bool):
        return f"`{value}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"{value:g}{' s' if value and 'seconds' in allowed(option) else ''}"


def sections(page: str) -> dict[str, str]:
    """The heading below which each option is told of."""
    found = {}
    texts = HEADING.split(page)
    for heading, text in zip(texts[1::2], texts[2::2], strict=True):
        found.update(dict.fromkeys(TOLD.findall(text), heading))
    return found


def anchor(heading: str) -> str:
    """The anchor that code forges and the site give a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def table(page: str) -> str:
    """The table, with a link to the section of the page that tells of each option."""
    lines = ["| option | default | what it can be | |", "|---|---|---|---|"]
    told = sections(page)
    for field in fields(PoolOptions):
        section = told.get(field.name)
        link = f"[{section}](#{anchor(section)})" if section else ""
        lines.append(f"| `{field.name}` | {default(field.name)} | {allowed(field.name)} | {link} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the table as it is to be."""
    text = f"{BEGIN}\n\n{table(page)}\n\n{END}"
    return TABLE.sub(lambda _: text, page)


def main() -> None:
    page = PAGE.read_text()
    if not TABLE.search(page):
        raise SystemExit(f"{PAGE}: there is no {BEGIN} and {END}")
    PAGE.write_text(written(page))


if __name__ == "__main__":
    main()
