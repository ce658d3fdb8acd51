"""Databases that run the SQL statements of a benchmark."""
