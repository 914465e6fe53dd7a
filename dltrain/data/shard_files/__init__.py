"""Shards: tar and Parquet files, each entry of which is a sample."""
