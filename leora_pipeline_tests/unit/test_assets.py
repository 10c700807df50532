"""The assets' definitions."""

from __future__ import annotations

from leora_pipeline.core.crm.requirements import functions_fingerprint
from leora_pipeline.orchestration import catalog
from leora_pipeline.orchestration.assets import ASSETS


def test_the_code_version_of_a_step_follows_the_sql_functions() -> None:
    versions = {key: code for asset in ASSETS for key, code in asset.code_versions_by_key.items()}

    assert {versions[key] for key in catalog.STEPS} == {functions_fingerprint()}
