"""A few of the cases of scripts/fuzz: whatever a file of somebody else's holds, a verb keeps its promises."""

import pytest
from conftest import fresh
from fuzz import KINDS, RUNS, SECRET, SECRET_VALUE, Bench, Ended

LONG = ("shards", "sweep", "sweeps")  # of which scripts/fuzz alone makes cases


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        patch.setenv(SECRET, SECRET_VALUE)
        made = Bench(tmp_path_factory.mktemp("fuzz"), lambda arguments: Ended(*fresh().run(arguments)))
        made.make([name for name in RUNS if name not in LONG])
        yield made


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LONG])
def test_no_file_of_others_breaks_a_verb(bench, kind):
    for seed in range(2):
        _, case, ended, faults = bench.faults(seed, [kind])
        assert not faults, (seed, case, ended)
