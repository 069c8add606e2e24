"""Clips through a frozen model into stores: the runtimes, the pass, the filling, Ray."""
