"""Ask a data base of vulnerabilities for all that the project needs, as it is installed here.

`make audit` installs `pip-audit` and calls this. Exit codes: 0 nothing is known of any, 1 something
is, 3 nobody could be asked of some; then their versions are printed.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from licences import needed

TOOL = Path(sys.prefix) / "pip-audit"
"""Where it is installed, with all that it needs, so that what is asked for is not changed by it."""
UNASKED = 3


def main() -> int:
    """Ask, and say what is known, and of what nothing could be."""
    # A version of this machine's own build (+cpu) is no release that anybody knows.
    pins = {name: each.version.partition("+")[0] for name, each in needed().items()}
    answers, why = asked(pins)
    for name, answer in answers.items():
        for each in answer.get("vulns", ()):
            print(f"{name} {pins[name]}: {each['id']}, mended in {each['fix_versions'] or 'none'}")
    unasked = {name: pins[name] for name in pins if "vulns" not in answers.get(name, {})}
    if unasked:
        print("".join(f"{name}=={version}\n" for name, version in unasked.items()), end="")
        print(f"NOT CHECKED: {why}. So it is of these {len(unasked)} of {len(pins)} versions.")
    if any(answer.get("vulns") for answer in answers.values()):
        return 1
    return UNASKED if unasked else 0


def asked(pins: dict[str, str]) -> tuple[dict[str, dict[str, Any]], str]:
    """Return what is known of each package, by name, and why of some it is not."""
    if not (TOOL / "pip_audit").is_dir():
        return {}, "pip-audit is not installed"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-f", "json"]
        done = subprocess.run(
            [*command, "-r", str(file)],
            env=os.environ | {"PYTHONPATH": str(TOOL)},
            check=False,
            capture_output=True,
            text=True,
        )
    try:
        answers = {each["name"]: each for each in json.loads(done.stdout)["dependencies"]}
    except ValueError:
        return {}, (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
    reasons = [each["skip_reason"] for each in answers.values() if "skip_reason" in each]
    return answers, next(iter(reasons), "pip-audit left them out").rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
