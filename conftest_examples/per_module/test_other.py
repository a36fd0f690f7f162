def test_another_module_has_another_machine(console):
    console.send("test -e /srv/shop || echo nothing $((6 * 7))\n")
    console.expect("nothing 42")
