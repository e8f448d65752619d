"""The parts of a training run; :mod:`fbconv.train` is their public face."""
