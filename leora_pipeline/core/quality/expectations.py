"""The adapter to Great Expectations: frames and expectations in, the rows that fail them out.

It is imported within the functions, since that takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from leora_pipeline.core.errors import LeoraError

if TYPE_CHECKING:
    import pandas as pd

Expectations = Callable[[Any], Sequence[Any]]
"""Given `great_expectations.expectations`, returns the expectations to validate."""


class CheckErroredError(LeoraError):
    """A check could not be evaluated; that is neither a pass nor a failure."""


def failing_keys(frame: pd.DataFrame, expectations: Expectations, *, key: str) -> set[str]:
    """Validates a frame.

    Args:
        frame: Small: all of it is held in memory.
        expectations: What has to be true of each row.
        key: The column that identifies a row.

    Returns:
        The keys of the rows that fail at least one expectation.

    Raises:
        CheckErroredError: An expectation could not be evaluated, for lack of a column, say.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # It would call home on import.
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset("frame")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    result = batch.validate(
        gx.ExpectationSuite(name="checks", expectations=list(expectations(gxe))),
        # COMPLETE pulls whole columns, and here a column is a value a tenant.
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [key]},
    )
    failing: set[str] = set()
    for outcome in result.results:
        if outcome.exception_info and outcome.exception_info.get("raised_exception", False) is True:
            raise CheckErroredError(f"{outcome.exception_info.get('exception_message')}")
        if not outcome.success and "unexpected_index_list" not in outcome.result:
            raise CheckErroredError(f"{outcome.exception_info}")
        failing.update(row[key] for row in outcome.result.get("unexpected_index_list") or [])
    return failing
