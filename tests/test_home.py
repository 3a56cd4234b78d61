"""The address of a database, without the password that it may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tradesweep.errors import BadInput
from tradesweep.home import DatabaseAddress, Home


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql+psycopg://me:s3cr3t@db.example:5432/ts", "s3cr3t"),
        ("postgresql://me:p%40ss@db.example/ts", "p@ss"),
        ("postgresql://me:p%2Fss@db.example/ts", "p/ss"),
        ("postgresql://me:un@escaped@db.example/ts", "un@escaped"),
        ("postgresql://me:un/escaped@db.example/ts", "un/escaped"),
        ("postgresql://me:un?escaped@db.example/ts", "un?escaped"),
        ("postgresql://me:un#escaped@db.example/ts", "un#escaped"),
        ("postgresql://me:[open@db.example/ts", "[open"),
        ("postgresql://me:s3cr3t/ts", "s3cr3t"),
        ("postgresql://db.example/ts?user=me&password=hidden", "hidden"),
        ("postgresql://db.example/ts?sslpassword=keyword", "keyword"),
    ],
)
def test_no_form_of_the_password_survives(url: str, secret: str) -> None:
    address = DatabaseAddress(url)
    masked = address.mask(f"could not connect to {url}: login with {secret} failed")
    assert secret not in masked
    assert url not in masked
    assert "could not connect" in masked
    assert secret not in f"{address} {address!r}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db.example:5433/ts?sslmode=require", "postgresql://db.example:5433/ts"),
        ("postgresql://me@one:5432,two:5433/ts", "postgresql://one:5432,two:5433/ts"),
        ("postgresql:///ts?host=/run/postgresql", "postgresql://localhost/ts"),
        ("postgresql://me:a/b@db.example/ts", "postgresql://..."),
        ("postgresql://me@[::1]:5432/ts", "postgresql://[::1]:5432/ts"),
        ("sqlite:////data/tradesweep.db", "sqlite:////data/tradesweep.db"),
        ("/data/tradesweep.db", "/data/tradesweep.db"),
    ],
)
def test_an_address_is_shown_as_host_and_name(url: str, shown: str) -> None:
    assert str(DatabaseAddress(url)) == shown


def test_a_url_without_a_secret_stays_readable() -> None:
    url = "sqlite:////data/tradesweep.db"
    assert DatabaseAddress(url).mask(f"{url} is locked") == f"{url} is locked"


def test_a_variable_that_is_no_url_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADESWEEP_DB_URL", "host=db.example password=s3cr3t")
    with pytest.raises(BadInput, match="must be a URL such as postgresql://user@host") as refusal:
        Home.from_environment(Path())
    assert "s3cr3t" not in str(refusal.value)


def test_the_database_of_a_home_is_its_file_unless_the_variable_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRADESWEEP_HOME", raising=False)
    monkeypatch.delenv("TRADESWEEP_DB_URL", raising=False)
    assert str(Home.from_environment(Path("/data")).database) == "/data/runs/tradesweep.db"
    monkeypatch.setenv("TRADESWEEP_DB_URL", "postgresql://db.example/ts")
    assert str(Home.from_environment(Path("/data")).database) == "postgresql://db.example/ts"
