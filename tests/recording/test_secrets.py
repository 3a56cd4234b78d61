from __future__ import annotations

import pytest

from tradesweep.recording.secrets import mask_url


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql+psycopg://me:s3cr3t@db.example:5432/ts", "s3cr3t"),
        ("postgresql://me:p%40ss@db.example/ts", "p@ss"),
        ("postgresql://db.example/ts?user=me&password=hidden", "hidden"),
        ("postgresql://db.example/ts?sslpassword=keyword", "keyword"),
    ],
)
def test_no_form_of_the_password_survives(url: str, secret: str) -> None:
    masked = mask_url(f"could not connect to {url}: login with {secret} failed", url)
    assert secret not in masked
    assert url not in masked
    assert "could not connect" in masked


def test_a_url_without_a_secret_stays_readable() -> None:
    url = "sqlite:////data/tradesweep.db"
    assert mask_url(f"{url} is locked", url) == f"{url} is locked"
