"""The directive ``settings``: what the code declares of the settings that it names, in that order."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.config.table import OPTIONS


def described(name: str) -> str:
    """A setting, as MyST."""
    option = OPTIONS[name]
    meaning, _, default = option.help.partition(" (default: ")
    default = default.removesuffix(")") or ("off" if option.kind is bool else "none")
    if getattr(VmConfig(), name) not in (None, ()):
        default = f"`{default}`"
    value = "" if option.kind is bool else f"={option.metavar}"
    given = (f"--vm-{name.replace('_', '-')}{value}", f"PYTEST_VM_{name.upper()}", f"vm_{name}")
    ways = " · ".join(f"`{way}`" for way in given)
    return f"```{{confval}} {name}\n\n{meaning[0].upper()}{meaning[1:]}. *Default:* {default}\n\n{ways}\n```\n"


class SettingsList(SphinxDirective):
    has_content = True

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # what is shown is no file of the site
        names = " ".join(self.content).split()
        return self.parse_text_to_nodes("\n".join(map(described, names)))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("settings", SettingsList)
    return {"parallel_read_safe": True}
