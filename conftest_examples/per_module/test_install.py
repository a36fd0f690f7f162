import pytest

pytestmark = pytest.mark.vm(memory="768M")  # on a module, a marker counts for the machine that its tests share


def test_memory(readonly_vm_module):
    assert readonly_vm_module.qmp.execute("query-memory-size-summary")["base-memory"] == 768 << 20


def test_install(console):
    # The terminal shows the command as well, so the answer is one that only the shell can give.
    console.send("mkdir /srv/shop && echo open > /srv/shop/state && echo installed $((6 * 7))\n")
    console.expect("installed 42")


def test_use_what_was_installed(console):
    console.send('echo "the shop is $(cat /srv/shop/state)"\n')
    console.expect("the shop is open")
