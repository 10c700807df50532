"""What is installed: pinned with hashes, and under licenses that were looked at."""

from __future__ import annotations

import json
import re

from leora_pipeline.core.settings import PROJECT_ROOT
from leora_pipeline_tests.processes import BIN, run

PERMISSIVE = {
    *("MIT", "MIT License", "MIT-0", "ISC License (ISCL)", "0BSD", "Zlib", "CC0-1.0"),
    *("BSD", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "BSD 3-Clause", "3-Clause BSD License"),
    *("Apache-2.0", "Apache Software License"),
    *("PSF-2.0", "Python Software Foundation License", "CNRI-Python"),
}
"""As the packages' metadata write them."""

NO_LICENSES = {"DFSG approved"}
"""What the same metadata say beside a license."""

COPYLEFT = {
    # Drivers are imported as they are; the LGPL allows that to any program.
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
    "psycopg2-binary": "GNU Library or Lesser General Public License (LGPL)",
    # The MPL is about changes to its own files, and they stay as they are.
    "certifi": "Mozilla Public License 2.0 (MPL 2.0)",
    "fqdn": "MPL-2.0",
    "hypothesis": "MPL-2.0",
    "pathspec": "Mozilla Public License 2.0 (MPL 2.0)",
    "tqdm": "MPL-2.0",
}
"""What is not permissive, and why it may be there all the same."""


def test_every_requirement_is_one_version_and_has_hashes() -> None:
    text = (PROJECT_ROOT / "requirements.txt").read_text().replace("\\\n", " ")
    requirement = re.compile(
        r"[a-z0-9.-]+(\[[a-z,-]+\])?==[\w.]+( ; [^:]+?)?(\s+--hash=sha256:[0-9a-f]{64})+"
    )

    assert [line for line in text.splitlines() if not requirement.fullmatch(line)] == []


def test_every_license_is_permissive_or_listed_here() -> None:
    listed = run(BIN / "pip-licenses", "--format=json", cwd=PROJECT_ROOT)

    licenses = {
        package["Name"]: set(re.split("; | AND | OR ", package["License"])) - NO_LICENSES
        for package in json.loads(listed.out)
    }
    assert "dagster" in licenses
    assert {
        name: " and ".join(sorted(found - PERMISSIVE))
        for name, found in licenses.items()
        if not found or found - PERMISSIVE
    } == COPYLEFT
