"""Makes the package's description of README.md: a page of an index, from which the repository's files are not reached.

A link to a file of the project leads to its source, if ``[project.urls]`` has a ``Source``; where the project names no
such place, the link's text stands alone, and a picture is left out.
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^)\s]+)\)")


def description(readme: str, source: str | None) -> str:
    """The text of README.md for readers elsewhere; `source` is the address of the repository's page."""

    def absolute(link: re.Match[str]) -> str:
        picture, text, target = link["picture"], link["text"], link["target"]
        if re.match(r"https?:|#", target):
            return link[0]
        if source:
            return f"{picture}[{text}]({source.rstrip('/')}/{'raw' if picture else 'blob'}/HEAD/{target})"
        return "" if picture else text

    return re.sub(r"\n{3,}", "\n\n", _LINK.sub(absolute, readme))


class Description(MetadataHookInterface):
    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, object]) -> None:
        urls = metadata.get("urls")
        source = urls.get("Source") if isinstance(urls, dict) else None
        text = description(Path(self.root, "README.md").read_text(encoding="utf-8"), source)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
