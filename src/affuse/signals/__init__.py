"""What a sensor gives, made into tensors: readers and transforms."""
