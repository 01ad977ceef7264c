"""The address of an MLflow store: whether it is one, and its passwords, kept out of all texts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

from lantk.errors import LantkError
from lantk.files import expand_address

# Not urlsplit: it raises, with a part of the password, where a sign in that is not encoded.
_ADDRESS = re.compile(r"([a-z][\w+.-]*)(:/*)(?:(.*)@)?([^?#]*)([?#]?)(.*)", re.I | re.S)
# Signs that end a name or password, for one reader or another, unless they are encoded.
_ENDS = re.compile(r"[@/?#\[\]]")
# Keys of database drivers, in the query of an address or inside an ODBC text there.
_KEY = (
    r"(?:^|[?;\s])(?:[\w-]*(?:pass(?!file)|pwd|secret|token|credential|signature)[\w-]*"
    r"|(?!ssl[_-]?key|[\w-]*public)[\w-]*key|auth|authorization|sig)\s*"
)
_SECRET_KEY = re.compile(f"{_KEY}$", re.I)
_SECRET_INSIDE = re.compile(_KEY + r"=\s*(\{(?:[^}]|\}\})*\}|[^;]*)", re.I)
_WEB = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Schemes of stores that a process opens itself."""
# A server, or a database that MLflow knows, with a driver or without.
_STORE = re.compile(
    rf"databricks|((?i:https?)|(?:{'|'.join(DATABASES)}|databricks)(?:\+\w+)?)://(.*)", re.S
)
_HIDDEN = "***"
_SHORTEST = 3  # shorter words stand in every text


def find_passwords(uri: str) -> list[str]:
    """Return the passwords in an address, as they are written there.

    One stands between user and host, or under a key of the query such as ``password``. The user
    of a web server may be a token, and counts as one. A file of SQLite has none.

    Examples
    --------
    >>> find_passwords("postgresql://me:a%20b@host/runs?sslpassword=c")
    ['a%20b', 'c']
    """
    scheme, _, user, *_ = _split(uri)
    name, _, password = user.partition(":")
    found = [name, password] if scheme.lower() in _WEB else [password]
    # From the first question mark, which an @ in the query may have put into the user.
    query = re.split("[?#]", uri, maxsplit=1)[1:] if scheme else []
    found += [secret for text in query for item in text.split("&") for secret in _secrets(item)]
    return list(dict.fromkeys(filter(None, found)))


def is_clear(uri: str) -> bool:
    """Return whether every reader of an address sees the same user, password, host and port."""
    scheme, _, user, *_ = _split(uri)
    try:
        _ = urlsplit(uri).port if scheme else None
    except ValueError:
        return False
    return not _ENDS.search(user)


def store_fault(uri: str) -> str | None:
    """Return what keeps an address from being that of a store, or None.

    It repeats no more of it than the path of a database file.
    """
    try:
        uri = expand_address(uri)
    except LantkError as error:
        return f"is {error}"
    match = _STORE.fullmatch(uri)
    if match is not None and (match[1] or "").startswith("sqlite"):
        if match[2].partition("?")[0] not in ("", "/", "/:memory:"):
            return None
        return (
            "is no address of a store that lasts: it keeps the runs in memory, where they end with"
            " a process. Wanted sqlite:////absolute/path/mlflow.db"
        )
    if match is not None and match[2] != "" and uri.isprintable() and is_clear(uri):
        return None
    return (
        "is no address of a store: wanted http://HOST:PORT or https:// of a server,"
        " sqlite:////absolute/path/mlflow.db of a file (MLflow has given up plain folders, file:"
        " and ./mlruns), or postgresql://, mysql:// or mssql:// with"
        " USER:PASSWORD@HOST:PORT/DATABASE; with a number as port, and @ / ? # [ ] percent-encoded"
        " in user, password and query, as in %40 for @"
    )


def user_fault() -> str | None:
    """Return what in the environment would keep a server from knowing MLflow's user, or None."""
    user, password = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
    given = [key for key in (user, password, "MLFLOW_TRACKING_TOKEN") if os.environ.get(key)]
    if given in ([user], [password]) and not Path("~/.mlflow/credentials").expanduser().exists():
        (other,) = {user, password} - {*given}
        return (
            f"{given[0]} is set in the environment and {other} is not: MLflow would come to the"
            " server as nobody. Set both, or neither"
        )
    for key in ("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        file = os.environ.get(key)
        if file and not Path(file).exists():
            return (
                f"{key} in the environment is {file!r}, and there is no such file: correct it, or"
                " unset it"
            )
    return None


def without_password(uri: str) -> str:
    """Return an address with ``***`` in the place of each password, and nothing else changed."""
    scheme, colon, user, place, mark, query = _split(uri)
    if _ENDS.search(user):  # who knows where the password ends
        return f"{scheme}{colon}{_HIDDEN}"
    if scheme.lower() in _WEB:
        user = user and _HIDDEN
    elif ":" in user:
        user = f"{user.partition(':')[0]}:{_HIDDEN}"
    items = [
        f"{item.partition('=')[0]}={_HIDDEN}" if any(_secrets(item)) else item
        for item in query.split("&")
    ]
    return f"{scheme}{colon}{user}{'@' if user else ''}{place}{mark}{'&'.join(items)}"


def without_passwords(text: str, uri: str) -> str:
    """Return a text in which an address and each of its passwords, however quoted, is hidden.

    The address becomes what `without_password` makes of it; elsewhere a password, or a part of
    one, is ``***`` where it is a word of its own.
    """
    plain = {form(word) for word in find_passwords(uri) for form in (str, unquote, unquote_plus)}
    plain |= {piece for word in plain for piece in _ENDS.split(word)}
    forms = set()
    for word in plain:
        if len(word) >= _SHORTEST:
            quoted = {quote(word), quote(word, safe=""), quote_plus(word)}
            forms |= {word, repr(word)[1:-1], *quoted}
            forms |= {re.sub("%..", lambda code: code[0].lower(), form) for form in quoted}
    if not forms:
        return text.replace(uri, without_password(uri))
    words = "|".join(_as_word(form) for form in sorted(forms, key=len, reverse=True))
    return without_password(uri).join(re.sub(words, _HIDDEN, part) for part in text.split(uri))


def without_user(uri: str) -> str:
    """Return an address without user and password."""
    scheme, colon, _, *place = _split(without_password(uri))
    return "".join((scheme, colon, *place))


def _split(uri: str) -> tuple[str, ...]:
    """Return scheme, colon and slashes, user, place, mark, query; of a file it is all place."""
    match = _ADDRESS.fullmatch(uri)
    if match is None or match[1].lower().startswith(("sqlite", "file")):
        return "", "", "", uri, "", ""
    return match.groups(default="")


def _secrets(item: str) -> Iterator[str]:
    """Yield what one ``key=value`` of a query should not show."""
    key, _, value = item.partition("=")
    if _SECRET_KEY.search(unquote_plus(key)):
        yield value
    else:
        for match in _SECRET_INSIDE.finditer(unquote_plus(value)):
            yield match[1].strip().removeprefix("{").removesuffix("}")


def _as_word(form: str) -> str:
    """Return a pattern for a form that is no part of a longer word."""
    before = r"(?:(?<!\w)|(?<=%[0-9A-Fa-f]{2}))" if re.match(r"\w", form) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", form) else ""
    return f"{before}{re.escape(form)}{after}"
