"""A site: what it consists of, and how to visit it."""

from dataclasses import dataclass
from typing import Any

import pytest

FETCH = (
    "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=float(sys.argv[2])).read().decode())"
)

# Says whom the server sees, and for whom that one says it asks.
SAYS_WHO = """
    server {
        listen 80;
        listen [::]:80;
        default_type text/plain;
        location / { return 200 "from $remote_addr for $http_x_forwarded_for"; }
    }
"""


@dataclass
class Site:
    outside: Any
    inside: Any
    client: Any
    router: Any
    web: Any

    def visit(self, address, *, patience=60):
        """What the client is told at an address; None if it is not answered within so many seconds."""
        done = self.client.run(["python3", "-c", FETCH, f"http://{address}/", str(patience)], check=False)
        return done.stdout.strip() if done.exit_code == 0 else None


@pytest.fixture
def site(vm_private_network, readonly_vm_factory):
    outside = vm_private_network("outside", gateway="router")
    inside = vm_private_network("inside", gateway="router")
    router = readonly_vm_factory(name="router", networks=[outside, inside])
    client = readonly_vm_factory(name="client", networks=[outside])
    web = readonly_vm_factory(name="web", networks=[inside])
    serve(web, SAYS_WHO)
    return Site(outside, inside, client, router, web)


def serve(vm, configuration):
    """Have nginx run with such a server in a machine."""
    vm.write_text("/etc/nginx/conf.d/site.conf", configuration)
    vm.run("systemctl restart nginx")
    vm.wait_for_port(80)
