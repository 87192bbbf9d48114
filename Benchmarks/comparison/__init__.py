"""What `compare` is made of: peers, measurement, tables."""
