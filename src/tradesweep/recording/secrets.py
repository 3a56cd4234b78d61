"""Keeping a database's URL out of what people read."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

_SECRET_PARAMETERS = frozenset({"password", "sslpassword", "passfile"})


def mask_url(text: str, db_url: str) -> str:
    """Replace the URL, and the password it carries in user-info or query, wherever the text quotes them."""
    parts = urlsplit(db_url)
    password = parts.password or ""
    secrets = {password, unquote(password)}
    secrets |= {value for key, value in parse_qsl(parts.query) if key.lower() in _SECRET_PARAMETERS}
    secrets -= {""}
    # A URL without a secret stays readable: it is the path of a file.
    for secret in sorted(secrets | {db_url}, key=len, reverse=True) if secrets else ():
        text = text.replace(secret, "***")
    return text
