"""Ask a data base of vulnerabilities for all that the project needs, as it is installed here.

`python tests/faults/audit.py` calls `pip-audit`. Exit codes: 0 nothing is known of any, 1 something
is, 3 nobody could be asked; then the versions are printed that would have been asked for.
"""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from licences import needed

UNASKED = 3


def main() -> int:
    """Ask, or say why not."""
    pins = "".join(f"{name}=={each.version}\n" for name, each in needed().items())
    why = "pip-audit is not installed"
    if importlib.util.find_spec("pip_audit"):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "requirements.txt"
            # A version of this machine's own build (+cpu) is no release that anybody knows.
            file.write_text("\n".join(line.partition("+")[0] for line in pins.splitlines()))
            command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip"]
            done = subprocess.run(
                [*command, "-r", str(file)], check=False, capture_output=True, text=True
            )
        if done.returncode == 0 or "vulnerabilit" in done.stdout + done.stderr:
            print(done.stdout + done.stderr)
            return done.returncode
        why = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
    print(f"{pins}NOT CHECKED: {why}. These {pins.count('==')} versions are what is installed.")
    return UNASKED


if __name__ == "__main__":
    sys.exit(main())
