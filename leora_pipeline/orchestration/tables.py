"""Frames as tables that the UI shows."""

from __future__ import annotations

import dagster as dg
import pandas as pd


def table(frame: pd.DataFrame) -> dg.TableMetadataValue:
    """Returns a small frame as table metadata; what is missing is shown as nothing."""
    records = [
        {
            str(name): value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in row.items()
        }
        for row in frame.astype(object).where(frame.notna(), "").to_dict("records")
    ]
    schema = dg.TableSchema(columns=[dg.TableColumn(name=name) for name in frame.columns])
    return dg.MetadataValue.table([dg.TableRecord(row) for row in records], schema=schema)
