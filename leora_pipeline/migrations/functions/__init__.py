"""The SQL functions of the schema: each stands once, in its current text, in the files beside this.

`leora migrate` puts them in place after the tables, whenever their digest differs from the one in
the schema. What does not belong here: tables, which the revisions under ``versions`` make.
"""

from __future__ import annotations

from leora_pipeline.core.crm.requirements import FUNCTIONS_FOLDER, functions_fingerprint

FILES = (
    "rule.sql",
    "derive_customers.sql",
    "causes.sql",
    "refresh_customers.sql",
    "write_customers.sql",
    "capture.sql",
    "after_order_create.sql",
    "crm_schema.sql",
)
"""The files in the order in which they are put in place: a function after those that it calls."""


def definitions() -> list[str]:
    """Returns the SQL that puts all functions in place, a text for each file.

    The last one makes ``functions_fingerprint()``, by which a schema shows which functions it has.
    """
    texts = [(FUNCTIONS_FOLDER / file).read_text(encoding="utf-8") for file in FILES]
    return [
        *texts,
        "CREATE OR REPLACE FUNCTION leora_pipeline.functions_fingerprint() RETURNS text\n"
        f"LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT '{functions_fingerprint()}' $$;\n"
        "COMMENT ON FUNCTION leora_pipeline.functions_fingerprint IS\n"
        "  'Which functions this schema has: the digest of their definitions';\n",
    ]
