"""Market data inside a worker process: installed once from the Ray object store, shared by all its lanes.

A trial hands the market to its process and to its remote runners as one object of read-only arrays. Where nobody
did (an algorithm restored from a checkpoint by hand), it is rebuilt from the spec and its hash is compared.
"""

from __future__ import annotations

import hashlib

from tradesweep.env import compile_market
from tradesweep.errors import MarketError
from tradesweep.market import Market
from tradesweep.spec import SweepSpec

_markets: dict[str, Market] = {}


def recipe_key(spec_json: str) -> str:
    """Everything that shapes a market stands in its spec: the key is a hash of the spec's text."""
    return hashlib.sha256(spec_json.encode()).hexdigest()


def install_market(spec_json: str, market: Market) -> None:
    """Make `market` what this process uses for the spec; an earlier one is let go."""
    _markets.clear()
    _markets[recipe_key(spec_json)] = market


def get_market(spec: SweepSpec, spec_json: str, sha256: str) -> Market:
    """Return the installed market, else compile it. Raises MarketError when the data changed since."""
    key = recipe_key(spec_json)
    if key not in _markets:
        install_market(spec_json, compile_market(spec))
    market = _markets[key]
    if market.sha256 != sha256:
        raise MarketError(
            f"market of {spec.experiment}: the data must be what the sweep began with (sha256 {sha256[:12]}), was"
            f" {market.sha256[:12]}; restore the file, or begin a new sweep"
        )
    return market
