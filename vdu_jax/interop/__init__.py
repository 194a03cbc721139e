"""Models and weights of other frameworks."""
