"""Passwords in the address of an MLflow store: found, and kept out of what is written."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote, unquote_plus

# Keys of database drivers, in the query of an address or inside an ODBC text there.
_SECRET = re.compile(r"(?:^|[?&;\s])[\w-]*(?:pass|pwd|secret|token)[\w-]*=([^&;]+)", re.IGNORECASE)
_HIDDEN = "***"


def find_passwords(uri: str) -> list[str]:
    """Return the passwords in an address, as they are written there.

    One stands between user and host, or under a key of the query such as ``password``. A file of
    SQLite has none.

    Examples
    --------
    >>> find_passwords("postgresql://me:a%20b@host/runs?sslpassword=c")
    ['a%20b', 'c']
    """
    scheme, found, rest = uri.partition("://")
    if not found or scheme.startswith("sqlite"):
        return []
    # Not urlsplit: a slash or a sign of another kind in the password would end the host for it.
    user, _, after = rest.rpartition("@")
    passwords = [user.partition(":")[2]] if ":" in user else []
    query = (after or rest).partition("?")[2]
    passwords += [match[1] for match in _SECRET.finditer(f"?{query}")]
    passwords += [match[1] for match in _SECRET.finditer(f"?{unquote_plus(query)}")]
    return list(dict.fromkeys(filter(None, passwords)))


def without_passwords(text: str, uri: str) -> str:
    """Return a text in which each password of an address, however quoted, is ``***``."""
    forms = set()
    for password in find_passwords(uri):
        for plain in (password, unquote(password), unquote_plus(password)):
            forms |= {plain, quote(plain), quote(plain, safe=""), quote_plus(plain)}
            forms |= {repr(plain)[1:-1], quote(plain, safe="").lower()}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, _HIDDEN)
    return text


def without_user(uri: str) -> str:
    """Return an address without user and password."""
    scheme, found, rest = uri.partition("://")
    if not found or scheme.startswith("sqlite"):
        return uri
    return f"{scheme}://{rest.rpartition('@')[2]}"
