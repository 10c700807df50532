"""Rows as tables that the UI shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from leora_pipeline.core.text import visible


def table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> dg.TableMetadataValue:
    """Returns a few rows as table metadata; what is missing is shown as nothing.

    Args:
        columns: The columns, in order; a table without rows has them too.
        rows: Each with a value for every column.
    """
    records = [dg.TableRecord({name: _shown(row[name]) for name in columns}) for row in rows]
    schema = dg.TableSchema(columns=[dg.TableColumn(name=name) for name in columns])
    return dg.MetadataValue.table(records, schema=schema)


def _shown(value: object) -> bool | int | float | str:
    if value is None:
        return ""
    return value if isinstance(value, bool | int | float) else visible(str(value))
