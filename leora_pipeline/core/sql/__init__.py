"""The pipeline's SQL: one file a step, one named statement for each thing that it does."""
