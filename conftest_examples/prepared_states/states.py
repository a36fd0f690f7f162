"""States of the guest from which tests start. Each is made once, kept, and made anew when it would be another."""

from pytest_readonly_vm import layer


@layer
def shop(vm):
    """A web server with a user, a folder and a systemd unit of its own; it runs."""
    unit = """
        [Service]
        User=shop
        WorkingDirectory=/srv/shop
        ExecStart=/usr/bin/python3 -m http.server 8080
        Restart=always
        RestartSec=0

        [Install]
        WantedBy=multi-user.target
    """
    vm.run("useradd --system --home-dir /srv/shop --create-home shop")
    vm.write_text("/etc/systemd/system/shop.service", unit)
    vm.run("systemctl enable --now shop")
    vm.wait_for_port(8080)


@layer
def selling(vm, *articles, price=1):
    """Upon `shop`: a page for each article."""
    for article in articles:
        vm.write_text(f"/srv/shop/{article}", f"{article}: {price} EUR\n")
