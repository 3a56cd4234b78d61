from tradesweep.store import open_store, verify


def test_x(green):
    bad = [r for r in verify(open_store(green)) if not r.passed]
    for r in bad:
        print(r)
    assert not bad
