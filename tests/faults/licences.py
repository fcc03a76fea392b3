"""Write `docs/licences.md`: what the project needs, as it is installed here, with its licence.

python tests/faults/licences.py
"""

import importlib.metadata
import re
import sys
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "licences.md"
HEADER = """# Licences of what the project needs

What `pyproject.toml` asks for (in bold), and what that asks for, as installed where
`make licences` was last run. A licence is what the package says of itself, or else its repository.

`make audit` asks PyPI's data base of vulnerabilities, by `pip-audit`, for what is installed, and
names the versions of which it could ask nobody ([so far all](trust.md)).

| package | version | licence |
|---|---|---|
"""
IN_REPOSITORIES = {
    "mlcroissant": "Apache-2.0 (https://github.com/mlcommons/croissant/blob/main/LICENSE.md)",
}
"""What packages do not say, and where it is said."""


def named(requirement: str) -> str:
    """Return the name of a requirement such as `jax>=0.10; python_version < "3.12"`."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0] if found else "").lower()


def extras(requirement: str) -> set[str]:
    """Return the extras that a requirement asks for: http and s3 of `fsspec[http,s3]>=2025.3`."""
    found = re.match(r"[A-Za-z0-9._-]+ ?\[([^]]*)\]", requirement)
    return set(re.split(r"\s*,\s*", found[1])) if found else set()


def requirements() -> list[str]:
    """Return all that `pyproject.toml` asks for, as it stands there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [each for group in project["optional-dependencies"].values() for each in group]
    return [*project["dependencies"], *optional]


def asked_for() -> list[str]:
    """Return the names of all that `pyproject.toml` asks for."""
    return sorted(set(map(named, requirements())))


def needed() -> dict[str, Distribution]:
    """Return all that is needed and installed, by name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = requirements()
    while waiting:
        requirement = waiting.pop()
        name = named(requirement)
        asked = {(name, each) for each in ("", *extras(requirement))} - seen
        seen |= asked
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform, or an extra that is not installed
        for each in found[name].requires or ():
            of_extra = re.search(r"""extra == ["']([^"']+)["']""", each)
            if (name, of_extra[1] if of_extra else "") in asked:
                waiting.append(each.partition(";")[0])
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """Return what a package says of its licence."""
    metadata = package.metadata
    classifiers = [
        each.rpartition(" :: ")[2]
        for each in metadata.get_all("Classifier") or ()
        if each.startswith("License :: ")
    ]
    text = (metadata.get("License") or "").strip().partition("\n")[0]
    said = metadata.get("License-Expression") or " / ".join(classifiers) or text
    return said.replace("|", "/") or IN_REPOSITORIES.get(metadata["Name"], "not said")


def main() -> None:
    """Write the page."""
    direct = asked_for()
    lines = [
        f"| {f'**{name}**' if name in direct else name} | {each.version} | {licence(each)} |"
        for name, each in needed().items()
    ]
    PAGE.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} packages, see {PAGE}")


if __name__ == "__main__":
    sys.exit(main())
