"""Neuron mathematics as pure functions: surrogates, step functions and multi-step scans. No modules, no state."""
