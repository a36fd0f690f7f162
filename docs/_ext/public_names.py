"""Annotations name a class by the module that has it; on the site it is where users import it from."""

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import pytest_readonly_vm


def public(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element) -> nodes.Element | None:
    name = str(node.get("reftarget", "")).rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in pytest_readonly_vm.__all__:
        return None
    target = f"pytest_readonly_vm.{name}"
    domain = env.domains["py"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], target, node, contnode)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("missing-reference", public)
    return {"parallel_read_safe": True}
