"""Layers: causal convolution and its state, ConvNeXt, adaptive normalisation, Fourier heads."""
