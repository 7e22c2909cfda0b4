"""What computes a tower. Each runtime is one way to the same vectors, checked against torch."""
