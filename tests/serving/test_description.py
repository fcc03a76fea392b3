"""The server does what its own OpenAPI description says: schemathesis finds nothing.

For longer, at a server that runs: `schemathesis run URL/openapi.json --checks all -n 1000`.
"""

import subprocess
import sys

import httpx
import pytest


@pytest.mark.slow
def test_what_the_description_allows_is_answered_and_all_else_refused(start, tmp_path):
    url = start(api_key="a-secret", max_tokens=2, concurrent=256).url
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    options = ["--header", "Authorization: Bearer a-secret", "--checks", "all"]
    options += ["--max-examples", "3", "--seed", "5", "--no-color"]
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    described = httpx.get(f"{url}/openapi.json").json()
    posts = [path for path, methods in described["paths"].items() if "post" in methods]
    assert sorted(posts) == ["/trace", "/v1/chat/completions", "/v1/completions"]
