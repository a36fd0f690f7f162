"""Which machines are started ahead: by what settings say, and by what the tests before have told."""

import pytest

from tests.forked import PLAIN

TESTS = """
    import pytest

    @pytest.fixture
    def vm_memory(request):
        return "16M" if request.node.name == "test_first" else "32M"

    def test_first(readonly_vm): pass
    def test_next(readonly_vm): pass
    def test_asks_by_getfixturevalue(request): pass
    def test_without_a_machine(): pass
    def test_of_a_factory(readonly_vm_factory): pass
    @pytest.mark.vm(memory="64M", prefetch=1)
    def test_marked(readonly_vm): pass
"""

LOOK = """
    from pytest_readonly_vm import VmConfig
    from pytest_readonly_vm.plugin.lookahead import Lookahead

    CONFIG = VmConfig().replace(prefetch="1")

    def pytest_collection_finish(session):
        items = {item.name: item for item in session.items}
        for before in items:
            for after in items:
                lookahead = Lookahead()
                lookahead.ran(items[before], CONFIG)
                lookahead.go_on_to(items[before], items[after])
                for config, name in lookahead.expected():
                    print("EXPECTED", before, after, config.memory >> 20, name)
"""


def test_a_test_is_expected_to_want_what_those_like_it_had_and_what_settings_say(pytester: pytest.Pytester) -> None:
    """What a fixture of the user's decides, and what is asked of a factory, is learned; what is asked later is not."""
    pytester.makeconftest(LOOK)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess(*PLAIN, "--collect-only", "-q")
    found = {tuple(line.split()[1:]) for line in result.outlines if line.startswith("EXPECTED")}
    alike = ("test_first", "test_next", "test_of_a_factory")
    others = {*alike, "test_asks_by_getfixturevalue", "test_without_a_machine"}
    expected = {(before, after, "1024", after) for before in alike for after in alike}
    expected |= {(before, "test_marked", "64", "test_marked") for before in others}
    assert found == expected | {("test_marked", "test_marked", "1024", "test_marked")}
