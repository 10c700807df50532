"""The adapter to Great Expectations: rows and expectations in, the keys of rows that fail them out.

It is imported within the functions, since that takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from leora_pipeline.core.errors import LeoraError

Expectations = Callable[[Any], Sequence[Any]]
"""Given `great_expectations.expectations`, returns the expectations to validate."""


class CheckErroredError(LeoraError):
    """A check could not be evaluated; that is neither a pass nor a failure."""


def failing_keys(
    rows: Sequence[Mapping[str, Any]], expectations: Expectations, *, key: str
) -> set[UUID]:
    """Validates rows.

    Args:
        rows: Few: all of them are held in memory.
        expectations: What has to be true of each row.
        key: The column that identifies a row, by a UUID.

    Returns:
        The keys of the rows that fail at least one expectation.

    Raises:
        CheckErroredError: An expectation could not be evaluated, for lack of a column, say.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # It would call home on import.
    import great_expectations as gx
    import great_expectations.expectations as gxe
    import pandas as pd
    from great_expectations.data_context.types.base import ProgressBarsConfig

    frame = pd.DataFrame([{**row, key: str(row[key])} for row in rows])
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset("frame")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    result = batch.validate(
        gx.ExpectationSuite(name="checks", expectations=list(expectations(gxe))),
        # COMPLETE pulls whole columns, and here a column is a value a tenant.
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [key]},
    )
    failing: set[UUID] = set()
    for outcome in result.results:
        if outcome.exception_info and outcome.exception_info.get("raised_exception", False) is True:
            raise CheckErroredError(f"{outcome.exception_info.get('exception_message')}")
        if not outcome.success and "unexpected_index_list" not in outcome.result:
            raise CheckErroredError(f"{outcome.exception_info}")
        failing.update(UUID(row[key]) for row in outcome.result.get("unexpected_index_list") or [])
    return failing
