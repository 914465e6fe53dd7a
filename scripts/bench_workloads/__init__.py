"""What ``scripts/bench`` measures: each workload with its rivals, written as people write them."""
