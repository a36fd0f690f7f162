import pytest


@pytest.fixture(autouse=True)
def open_ports(request, readonly_vm):
    """For a test that fails, show which ports were open in its guest."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before and readonly_vm.trouble is None:
        print(readonly_vm.run("ss -tlnp", check=False, timeout=10).stdout)
