"""What shards are made of: tar and Parquet files with a sample an entry."""
