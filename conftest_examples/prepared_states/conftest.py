"""What the tests want to know of a shop."""

import urllib.error
import urllib.request

import pytest


@pytest.fixture
def visit():
    """A function that fetches a page of the shop in a machine, over the network; None if there is no such page."""

    def fetch(vm, page=""):
        host, port = vm.forward(8080)
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/{page}", timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError:
            return None
        finally:
            vm.unforward((host, port))

    return fetch
