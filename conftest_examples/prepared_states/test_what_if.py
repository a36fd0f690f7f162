"""Several ends of one story, without telling its beginning again."""


def test_damages(readonly_vm, visit):
    """Back to a moment of this machine, as often as wanted."""
    readonly_vm.write_text("/srv/shop/cherries", "cherries: 5 EUR\n")
    intact = readonly_vm.checkpoint()
    for damage in ("rm /srv/shop/cherries", "mv /srv/shop /srv/elsewhere", "chmod 0 /srv/shop/cherries"):
        readonly_vm.run(damage)
        assert visit(readonly_vm, "cherries") is None
        readonly_vm.restore(intact)
        assert visit(readonly_vm, "cherries") == "cherries: 5 EUR\n"


def test_branches(readonly_vm, visit):
    """Machines that have a past in common, with all that runs in them, and go on apart."""
    readonly_vm.run("echo common >/srv/shop/history")
    with readonly_vm.fork(2) as (north, south):
        north.run("echo north >>/srv/shop/history")
        south.run("echo south >>/srv/shop/history")
        assert visit(north, "history") == "common\nnorth\n"
        assert visit(south, "history") == "common\nsouth\n"
    assert visit(readonly_vm, "history") == "common\n"
