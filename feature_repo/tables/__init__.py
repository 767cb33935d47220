"""Raw events → feature tables: one expression for each view, on DuckDB or Spark, at any moment."""
