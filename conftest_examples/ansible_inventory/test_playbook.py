def test_the_shop(ansible, readonly_vm):
    first = ansible("playbook.yml")
    assert (first["changed"], first["failed"], first["unreachable"]) == (2, 0, 0)
    assert readonly_vm.read_text("/srv/shop/shop.conf") == "open = yes\n"
    assert readonly_vm.run("stat -c %a /srv/shop").stdout == "750\n"

    again = ansible("playbook.yml")
    assert (again["ok"], again["changed"]) == (2, 0)
