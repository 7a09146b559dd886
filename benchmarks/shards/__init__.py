"""What shards on Ray cost, beside what Ray itself costs."""
