import sys

import numpy as np
import pytest

from tradesweep.errors import MarketError
from tradesweep.market.features import compute_features
from tradesweep.market.plugins import load_plugins
from tradesweep.market.synthetic import make_synthetic

BODY = """
def body(bars, *, power=1):
    return [f"body_{power}"], (bars.close / bars.open - 1) ** power

features = {"body": body}
"""


@pytest.fixture
def write(tmp_path):
    def write_plugin(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return name

    return write_plugin


def test_a_file_registers_features_by_name(write, tmp_path):
    plugins = load_plugins([write(BODY)], root=tmp_path)
    bars = make_synthetic("brownian", bars=50)
    table = compute_features(bars, [("body", {"power": 2}), ("rsi", {})], plugins)
    assert table.names == ("body_2", "rsi_14")
    assert table.values_NF[:, 0] == pytest.approx((bars.close / bars.open - 1) ** 2)


def test_a_hook_names_module_and_function(write, tmp_path, monkeypatch):
    write(BODY, "tradesweep_test_hooks.py")
    monkeypatch.syspath_prepend(tmp_path)
    plugins = load_plugins(["tradesweep_test_hooks:body", "tradesweep_test_hooks"])
    monkeypatch.delitem(sys.modules, "tradesweep_test_hooks")
    assert sorted(plugins) == ["body", "tradesweep_test_hooks:body"]
    bars = make_synthetic("brownian", bars=50)
    assert np.isfinite(compute_features(bars, [("tradesweep_test_hooks:body", {})], plugins).values_NF).all()


def test_a_file_may_register_only_rewards(write, tmp_path):
    assert load_plugins([write("rewards = {}")], root=tmp_path) == {}


REFUSED = {
    "raises": ("1 / 0", "plugin mine.py must load without errors, raised ZeroDivisionError"),
    "syntax": ("def", "plugin mine.py must load without errors, raised SyntaxError"),
    "no registry": ("features = [1]", "must define `features = {name: function}`, was list"),
    "no function": ("features = {'a': 1}", "must map names to functions, was 'a': 1"),
    "taken": ("features = {'rsi': print}", "must not take the name 'rsi', which exists"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_a_broken_plugin_is_refused_by_name(write, tmp_path, text, message):
    with pytest.raises(MarketError, match=message):
        load_plugins([write(text)], root=tmp_path)


def test_missing_places_are_refused(tmp_path):
    with pytest.raises(MarketError, match=r"plugin none.py must be a python file beside the spec"):
        load_plugins(["none.py"], root=tmp_path)
    with pytest.raises(MarketError, match="raised ModuleNotFoundError"):
        load_plugins(["no_such_module:f"])
    with pytest.raises(MarketError, match="must name a function of json, which has no 'no_such'"):
        load_plugins(["json:no_such"])
