"""The compressed file format; :mod:`fbconv.checkpoint` is its public face."""
