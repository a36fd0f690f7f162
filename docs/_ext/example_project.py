"""The directive ``example``: a folder of ``conftest_examples``, its README and its files."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

EXAMPLES = Path(__file__).parents[2] / "conftest_examples"
_LANGUAGES = {".py": "python", ".ini": "ini", ".yml": "yaml", ".yaml": "yaml"}


def files_of(folder: Path) -> list[Path]:
    """What is to be shown, the tests last."""
    files = (path for path in folder.rglob("*") if path.suffix in _LANGUAGES and "test-results" not in path.parts)
    return sorted(files, key=lambda path: (path.name.startswith("test_"), path))


def _shown(path: Path, folder: Path) -> str:
    head = f"```{{code-block}} {_LANGUAGES[path.suffix]}\n:caption: {path.relative_to(folder)}\n"
    return f"{head}\n{path.read_text()}```\n"


class ExampleProject(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        folder = EXAMPLES / self.arguments[0]
        readme = folder / "README.md"
        _, _, text = readme.read_text().partition("\n")
        files = files_of(folder)
        for path in (readme, *files):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes("\n".join((text, *(_shown(path, folder) for path in files))))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("example", ExampleProject)
    return {"parallel_read_safe": True}
