"""Owns reading what an inner pytest run says of its tests."""

from pathlib import Path
from xml.etree import ElementTree


def read_problems(report: Path) -> dict[str, str]:
    """The tests that a JUnit report counts as failed or erroneous, each with what it says of them."""
    problems: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        for problem in (*case.iter("failure"), *case.iter("error")):
            problems[case.attrib["name"]] = f"{problem.attrib['message']}\n{problem.text}"
    return problems
