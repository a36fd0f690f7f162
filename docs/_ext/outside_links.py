"""Links of a page to what is in the repository and not on the site.

They are written for whoever reads the Markdown in the repository. On the site an example's folder is a section of the
page of examples; the rest leads to the project's source, or is text alone where the project names no place for that.
"""

import os
import re
from importlib.metadata import metadata
from pathlib import Path

from sphinx.application import Sphinx

_LINK = re.compile(r"\[([^\[\]]+)\]\((\.\./[^)\s]+)\)")


def source() -> str | None:
    """The place of the project's source, if its metadata names one."""
    urls = dict(url.split(", ", 1) for url in metadata("pytest-readonly-vm").get_all("Project-URL", ()))
    return urls.get("Source")


def mend(app: Sphinx, docname: str, content: list[str]) -> None:
    folder = Path(app.srcdir, docname).parent

    def mended(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = Path(os.path.normpath(folder / target.partition("#")[0]))
        if path.is_relative_to(app.srcdir):
            return link[0]
        within = path.relative_to(Path(app.srcdir).parent)
        if within.parts[0] == "conftest_examples":
            page = os.path.relpath(Path(app.srcdir, "examples.md"), folder)
            return f"[{text}]({page}{''.join(f'#{name}' for name in within.parts[1:2])})"
        return f"[{text}]({source()}/blob/HEAD/{within})" if source() else text

    content[0] = _LINK.sub(mended, content[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", mend)
    return {"parallel_read_safe": True}
